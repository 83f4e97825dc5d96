"""Every softmax loss and the sigmoid, at shapes that take several tiles: against the whole matrix in float64."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import gradients, leaves, matrices
from tiny import rows

from cl import contrast as module
from cl.losses import tiles
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.types import Contrast

GROUPS = ("unique", "pairs", "few", "all equal", "one giant")
SHAPES = ("itself", "both ways", "pool", "queue")
M, TILE, SEED = st.integers(1, 300), st.sampled_from([7, 64, 512]), st.integers(0, 10**6)
TEMPERATURE = st.sampled_from([0.005, 0.02, 0.1, 1.0, 10.0])


@pytest.fixture(params=[0, 32], ids=["listed", "masks"], scope="module", autouse=True)
def some_kept(request):
    """So few that of some shapes drawn tiles are kept, and of most they are multiplied again."""
    with pytest.MonkeyPatch.context() as context:
        context.setattr(tiles, "KEPT", 2**12)
        context.setattr(module, "MANY", request.param)
        yield


@st.composite
def large(draw):
    """Float32 rows, unit or not, of up to 300 queries against up to 300 keys."""
    m, d, shape = draw(M), draw(st.sampled_from([2, 16, 33])), draw(st.sampled_from(SHAPES))
    n = m if shape == "itself" else draw(st.integers(0, 300))
    kind, seed, length = draw(st.sampled_from(GROUPS)), draw(SEED), draw(st.sampled_from([1.0, 0.5, 2.0]))
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(2 * (m + n), generator=generator)[: m + n] // 2  # two rows of most samples
    group = {
        "unique": sample,
        "pairs": sample // 2,
        "few": sample % 5,
        "all equal": sample * 0,
        "one giant": torch.where(sample < (m + n) // 2, 0, sample),
    }[kind]
    ids = torch.stack([group, sample, torch.randint(0, 2, (m + n,), generator=generator)], dim=1)
    q, q_ids = length * rows(m, d, seed), ids[:m]
    if shape == "itself":
        return Contrast(q, q_ids, pool=q, pool_ids=q_ids, pool_is_q=True)
    pool, pool_ids = rows(n, d, seed + 1), ids[m:]
    if shape == "both ways":
        return Contrast(q, q_ids, pool=pool, pool_ids=pool_ids, both_ways=True)
    paired = rows(m, d, seed + 2) if draw(st.booleans()) else None
    stale = torch.rand(n, generator=generator) < 0.5 if shape == "queue" else None
    return Contrast(q, q_ids, paired, pool, pool_ids, stale, draw(st.sampled_from(["positive", "ignored", "negative"])))


def dense(contrast, temperature, decoupled):
    """The softmax losses from the whole matrix, and the positives' counts with it."""
    met, positive = matrices(contrast)
    s = contrast.q @ contrast.pool.T / temperature
    own = None if contrast.paired is None else (contrast.q * contrast.paired).sum(dim=1, keepdim=True) / temperature
    directions = [(s, met, positive)] + ([(s.T, met.T, positive.T)] if contrast.both_ways else [])
    losses, counts = [], []
    for logits, meets, attracts in directions:
        if own is not None:
            logits = torch.cat([own, logits], dim=1)
            meets, attracts = (F.pad(x, (1, 0), value=True) for x in (meets, attracts))
        pushed = meets & ~attracts if decoupled else meets
        count = attracts.sum(dim=1)
        there = (count > 0) & pushed.any(dim=1)
        lse = torch.where(pushed, logits, -torch.inf)[there].logsumexp(dim=1)
        mean = torch.where(attracts, logits, 0)[there].sum(dim=1) / count[there]
        losses.append((lse - mean).sum())
        counts.append((count > 0).sum())
    return sum(losses) / sum(counts).clamp(min=1)


@st.composite
def alone(draw):
    """Unit rows that have one positive each: pairs that all meet, both ways, or paired keys beside a queue."""
    b, d, seed = draw(st.integers(1, 150)), draw(st.sampled_from([2, 16, 33])), draw(SEED)
    shape, n = draw(st.sampled_from(["itself", "both ways", "queue"])), draw(st.integers(0, 300))
    q, k = rows(b, d, seed), rows(b, d, seed + 1)
    if shape == "queue":
        ids = torch.arange(b + n)[:, None].expand(-1, 3)
        return Contrast(q, ids[:b], k, rows(n, d, seed + 2), ids[b:], torch.ones(n, dtype=torch.bool))
    return Contrast.pairs(q, k, both_ways=shape == "both ways")


def hard(contrast, temperature, hardness, debias):
    """`HardNegativeInfoNCE` from the whole matrix; by `temperature`, a tensor."""
    met, positive = matrices(contrast)
    s, losses, count = contrast.q @ contrast.pool.T / temperature, [], 0
    for logits, meets, attracts in [(s, met, positive)] + ([(s.T, met.T, positive.T)] if contrast.both_ways else []):
        own = (
            (contrast.q * contrast.paired).sum(dim=1) / temperature if contrast.paired is not None else logits[attracts]
        )
        count += len(own)
        pushed = meets & ~attracts
        some = pushed.any(dim=1)
        logits, pushed, own = logits[some], pushed[some], own[some]
        n = pushed.sum(dim=1).double()
        drawn, weight = (torch.where(pushed, f * logits, -torch.inf).logsumexp(dim=1) for f in (1 + hardness, hardness))
        rest = (drawn - weight).exp() - debias * own.exp()
        least = torch.exp(-1 / temperature)
        losses.append(((own.exp() + n * torch.maximum(rest / (1 - debias), least)).log() - own).sum())
    return sum(losses) / count


def wide(contrast):
    """The same in float64, over leaves of its own."""
    names = [name for name in ("q", "pool", "paired") if getattr(contrast, name) is not None]
    return leaves(replace(contrast, **{name: getattr(contrast, name).double() for name in names}))


def rounding(contrast, temperature):
    """What float32 allows: a logit s is off by about |s| / 2^23, and with it the logarithm of every softmax weight."""
    keys = [rows for rows in (contrast.pool, contrast.paired) if rows is not None]
    longest = max((float(rows.norm(dim=1).max()) for rows in keys if len(rows)), default=0.0)
    return max(1e-5, 2**-23 * float(contrast.q.norm(dim=1).max()) * longest / temperature)


def agree(ours, theirs, mine, expected, temperature, tolerance, learned=()):
    """Relative to the larger of a gradient and of the pull and the push that it is the difference of.

    With `learned`, also by what is learned: pairs of a parameter and its float64 twin.
    """
    assert abs(float(ours.detach()) - float(theirs.detach())) <= tolerance * max(1.0, float(theirs.detach().abs()))
    found = gradients(ours, [*mine, *(one for one, _ in learned)])
    wanted = gradients(theirs, [*expected, *(other for _, other in learned)])
    lengths = [float(leaf.detach().norm(dim=1).max()) if len(leaf) else 0.0 for leaf in mine]
    for n, (one, other) in enumerate(zip(found, wanted, strict=True)):
        # By the logarithm of the scale: the mean over rows of differences of logits.
        pull = (
            1 / temperature / max(len(mine[0]), 1) ** 0.5 if n < len(mine) else lengths[0] * max(lengths) / temperature
        )
        assert one.isfinite().all()
        assert (one - other).norm() <= tolerance * max(float(other.norm()), pull, 1e-30)


def twins(temperature):
    """A learned temperature, its parameter with the float64 twin of it, and 1 / scale by that one."""
    learned = LearnedTemperature(temperature, max_scale=1e3, min_scale=1e-3)
    twin = learned.log_scale.detach().double().requires_grad_()
    return learned, (learned.log_scale, twin), (-twin).exp()


@settings(max_examples=150)
@given(large(), TEMPERATURE, TILE, st.booleans())
def test_softmax_losses(contrast, temperature, tile, decoupled):
    single, mine = leaves(contrast)
    double, expected = wide(contrast)
    loss = DecoupledInfoNCE if decoupled else InfoNCE
    learned, pair, inverse = twins(temperature)
    ours, theirs = loss(learned, tile=tile)(single), dense(double, inverse, decoupled)
    agree(ours, theirs, mine, expected, temperature, rounding(contrast, temperature), [pair])


@settings(max_examples=150)
@given(alone(), TEMPERATURE, TILE, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.1]))
def test_hard_negatives(contrast, temperature, tile, hardness, debias):
    single, mine = leaves(contrast)
    double, expected = wide(contrast)
    learned, pair, inverse = twins(temperature)
    ours = HardNegativeInfoNCE(learned, hardness, debias, tile)(single)
    theirs = hard(double, inverse, hardness, debias)
    tolerance = (1 + 2 * hardness) * rounding(contrast, temperature)
    agree(ours, theirs, mine, expected, temperature, tolerance, [pair])


@given(large(), TEMPERATURE, TILE, st.sampled_from([-10.0, 0.0, 3.0]))
def test_sigmoid(contrast, temperature, tile, bias):
    single, mine = leaves(contrast)
    double, expected = wide(contrast)
    met, positive = matrices(contrast)
    learned, pair, inverse = twins(temperature)
    loss = Sigmoid(learned, bias, tile)
    twin = loss.bias.detach().double().requires_grad_()
    x = double.q @ double.pool.T / inverse + twin
    theirs = F.softplus(torch.where(positive, -x, x)[met]).sum()
    if double.paired is not None:
        theirs = theirs + F.softplus(-(double.q * double.paired).sum(dim=1) / inverse - twin).sum()
    exact, learned = theirs / len(double.q), [pair, (loss.bias, twin)]
    agree(loss(single), exact, mine, expected, temperature, rounding(contrast, temperature), learned)


@given(large(), TEMPERATURE, st.tuples(TILE, TILE))
def test_the_size_of_tiles_changes_nothing(contrast, temperature, tiles):
    one, other = (InfoNCE(temperature, tile=tile) for tile in tiles)
    first, mine = leaves(contrast)
    second, theirs = leaves(contrast)
    agree(one(first), other(second), mine, theirs, temperature, rounding(contrast, temperature))


@pytest.mark.parametrize("native", [True, False])
@given(contrast=large(), temperature=st.sampled_from([0.1, 0.5]))
def test_bfloat16_products_are_near(native, contrast, temperature):
    """Whether the device has such products or float32's stand in for them."""
    with patch("cl.losses.tiles.has_bfloat16", lambda device: native):
        check_near(contrast, temperature)


def check_near(contrast, temperature):
    single, mine = leaves(contrast)
    near, theirs = leaves(contrast)
    exact, rough = InfoNCE(temperature)(single), InfoNCE(temperature, products="bfloat16")(near)
    # Logits of at most 2 / temperature are off by up to 1 / 256 of that, and rows by as much.
    agree(rough, exact, theirs, mine, temperature, tolerance=2 * (2 / temperature + 2) / 256)


@given(large(), TEMPERATURE)
def test_bfloat16_rows_are_taken_as_they_are(contrast, temperature):
    names = [name for name in ("q", "pool", "paired") if getattr(contrast, name) is not None]
    half = {name: getattr(contrast, name).bfloat16() for name in names}
    if contrast.pool_is_q:
        half["pool"] = half["q"]
    ours = InfoNCE(temperature)(replace(contrast, **half))
    exact = InfoNCE(temperature)(replace(contrast, **{name: value.float() for name, value in half.items()}))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-6)
