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
from cl.losses.matmul import has_onednn
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.types import Contrast

GROUPS = ("unique", "pairs", "few", "all equal", "one giant")
SHAPES = ("itself", "both ways", "pool", "queue")
M, TILE, SEED = st.integers(1, 300), st.sampled_from([7, 64, 512]), st.integers(0, 10**6)
TEMPERATURE = st.sampled_from([0.005, 0.02, 0.1, 1.0, 10.0])


@pytest.fixture(
    params=[(0, True), (0, False), (32, True)], ids=["oneDNN", "MKL", "masks"], scope="module", autouse=True
)
def ways(request):
    """Pairs are listed or masks, products are oneDNN's or MKL's, and a few tiles are kept, most made again."""
    many, onednn = request.param
    with pytest.MonkeyPatch.context() as context:
        context.setattr(tiles, "KEPT", 2**12)
        context.setattr(module, "MANY", many)
        context.setattr(tiles, "prefers_onednn", lambda x: onednn and has_onednn() and x.dtype == torch.float32)
        yield


@st.composite
def large(draw):
    """Float32 rows, unit or not, of up to 300 queries against up to 300 keys."""
    m, d, shape = draw(M), draw(st.sampled_from([1, 2, 16, 33])), draw(st.sampled_from(SHAPES))
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
def one_positive(draw):
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
        paired = contrast.paired
        own = logits[attracts] if paired is None else (contrast.q * paired).sum(dim=1) / temperature
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


def largest(contrast):
    """What no inner product exceeds."""
    keys = [rows for rows in (contrast.pool, contrast.paired) if rows is not None]
    longest = max((float(rows.norm(dim=1).max()) for rows in keys if len(rows)), default=0.0)
    return float(contrast.q.norm(dim=1).max()) * longest


def rounding(contrast, temperature):
    """What float32 allows: a logit s is off by about |s| / 2^23, and with it the logarithm of every softmax weight."""
    return max(1e-5, 2**-23 * largest(contrast) / temperature)


def agree(ours, theirs, mine, expected, temperature, tolerance, learned=()):
    """Relative to the larger of a gradient and of the pull and the push that it is the difference of.

    Of `learned` too: triples of a parameter, its float64 twin, and how large that difference's parts are.
    """
    assert abs(float(ours.detach()) - float(theirs.detach())) <= tolerance * max(1.0, float(theirs.detach().abs()))
    pull = 1 / temperature / max(len(mine[0]), 1) ** 0.5
    parts = [pull] * len(mine) + [part for _, _, part in learned]
    found = gradients(ours, [*mine, *(one for one, _, _ in learned)])
    wanted = gradients(theirs, [*expected, *(other for _, other, _ in learned)])
    for one, other, part in zip(found, wanted, parts, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= tolerance * max(float(other.norm()), part)


def twins(contrast, temperature, learned):
    """A temperature for a loss, the same for its float64 oracle, and where it is learned what `agree` takes."""
    if not learned:
        return temperature, torch.tensor(temperature, dtype=torch.float64), []
    found = LearnedTemperature(temperature, max_scale=1e3, min_scale=1e-3)
    twin = found.log_scale.detach().double().requires_grad_()
    # By the logarithm of the scale: differences of logits.
    return found, (-twin).exp(), [(found.log_scale, twin, largest(contrast) / temperature)]


@settings(max_examples=300)
@given(large(), TEMPERATURE, TILE, st.booleans(), st.booleans())
def test_softmax_losses(contrast, temperature, tile, decoupled, learned):
    single, mine = leaves(contrast)
    double, expected = wide(contrast)
    loss = DecoupledInfoNCE if decoupled else InfoNCE
    scale, twin, learned = twins(contrast, temperature, learned)
    ours, theirs = loss(scale, tile=tile)(single), dense(double, twin, decoupled)
    agree(ours, theirs, mine, expected, temperature, rounding(contrast, temperature), learned)


HARDNESS, DEBIAS = st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.1])


@settings(max_examples=150)
@given(one_positive(), TEMPERATURE, TILE, HARDNESS, DEBIAS, st.booleans())
def test_hard_negatives(contrast, temperature, tile, hardness, debias, learned):
    single, mine = leaves(contrast)
    double, expected = wide(contrast)
    scale, twin, learned = twins(contrast, temperature, learned)
    ours = HardNegativeInfoNCE(scale, hardness, debias, tile)(single)
    theirs = hard(double, twin, hardness, debias)
    # Weights are of logits once more. Where negatives and what is taken off them are nearly alike a row's difference is
    # off by up to n debias; of a mean over rows 2.4 was the most in 1,500 draws, and 0.5 with hardness.
    tolerance = (1 + 2 * hardness) * (1 + 40 * debias) * rounding(contrast, temperature)
    agree(ours, theirs, mine, expected, temperature, tolerance, learned)


@settings(max_examples=200)
@given(large(), TEMPERATURE, TILE, st.sampled_from([-10.0, 0.0, 3.0]), st.booleans())
def test_sigmoid(contrast, temperature, tile, bias, learned):
    single, mine = leaves(contrast)
    double, expected = wide(contrast)
    met, positive = matrices(contrast)
    scale, twin, learned = twins(contrast, temperature, learned)
    loss = Sigmoid(scale, bias, tile)
    twin_bias = loss.bias.detach().double().requires_grad_()
    x = double.q @ double.pool.T / twin + twin_bias
    theirs = F.softplus(torch.where(positive, -x, x)[met]).sum()
    positives = int(positive.sum())
    if double.paired is not None:
        theirs = theirs + F.softplus(-(double.q * double.paired).sum(dim=1) / twin - twin_bias).sum()
        positives += len(double.q)
    learned = [*learned, (loss.bias, twin_bias, max(positives / len(double.q), 1.0))]
    exact = theirs / len(double.q)
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
