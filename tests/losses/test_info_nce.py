import math
from dataclasses import replace

import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from oracle import contrasts, gradients, leaves
from tiny import block, embeddings, rows

from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.types import Contrast

TEMPERATURE = st.floats(0.1, 3.0)
LONELY = st.sampled_from(["skip", "count"])


@given(contrasts(), TEMPERATURE, LONELY)
def test_values_and_gradients_are_the_loops(contrast, temperature, lonely):
    contrast, inputs = leaves(contrast)
    oracle.agree(InfoNCE(temperature, lonely)(contrast), oracle.info_nce(contrast, temperature, lonely), inputs)


@given(contrasts(), TEMPERATURE, st.floats(0, 0.9), st.integers(1, 5))
def test_smoothing_spreads_the_target_over_all_candidates(contrast, temperature, smoothing, tile):
    def row(positives, negatives):
        if not positives:
            return None
        total = torch.stack(positives + negatives)
        target = (1 - smoothing) * torch.stack(positives).mean() + smoothing * total.mean()
        return total.exp().sum().log() - target

    contrast, inputs = leaves(contrast)
    ours = InfoNCE(temperature, smoothing=smoothing, tile=tile)(contrast)
    oracle.agree(ours, oracle.over_rows(contrast, temperature, row), inputs)


@given(st.integers(1, 8), TEMPERATURE, st.floats(0, 0.9), st.integers(0, 1000))
def test_smoothing_is_cross_entropys(b, temperature, smoothing, seed):
    image, text = rows(b, 5, seed), rows(b, 5, seed + 1)
    logits, target = image @ text.T / temperature, torch.arange(b)
    expected = sum(F.cross_entropy(each, target, label_smoothing=smoothing) for each in (logits, logits.T)) / 2
    ours = InfoNCE(temperature, smoothing=smoothing)(Contrast.pairs(image, text, both_ways=True))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@given(contrasts(), st.floats(0.02, 0.9))
def test_learned_temperature_is_the_loops(contrast, initial):
    temperature = LearnedTemperature(initial).double()
    ours = InfoNCE(temperature)(contrast)
    inverse = temperature.log_scale.detach().neg().exp().requires_grad_()
    theirs = oracle.info_nce(contrast, inverse[0])
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    (mine,), (expected,) = gradients(ours, [temperature.log_scale]), gradients(theirs, [inverse])
    torch.testing.assert_close(mine, -expected * inverse, rtol=1e-7, atol=1e-9)  # d/d log(1/T) = -T d/dT


@given(contrasts(), TEMPERATURE)
def test_float32_agrees_with_float64(contrast, temperature):
    single = {
        name: getattr(contrast, name).float() for name in ("q", "pool", "paired") if getattr(contrast, name) is not None
    }
    ours = InfoNCE(temperature)(replace(contrast, **single))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), InfoNCE(temperature)(contrast), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", oracle.KINDS)
def test_gradcheck(kind):
    generator = torch.Generator().manual_seed(0)
    q, pool, paired = (torch.randn(n, 3, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 5, 4))
    group = [0, 1, 0, 2]
    stale = torch.tensor([False, True, True, False, True]) if "queue" in kind else None
    ids, pool_ids = block(group, 0), torch.cat([block(group, 1), block([3], 0, first=9)])
    temperature = LearnedTemperature(0.5).double()
    loss = InfoNCE(temperature)

    def value(q, pool, paired, log_scale):
        if kind == "itself":
            return loss(Contrast(q, ids, pool=q, pool_ids=ids, pool_is_q=True))
        own = paired if "paired" in kind else None
        return loss(Contrast(q, ids, own, pool, pool_ids, stale, both_ways=kind == "both ways"))

    assert torch.autograd.gradcheck(value, (q, pool, paired, temperature.log_scale))


# What the references compute.


@given(st.integers(2, 8), TEMPERATURE, st.integers(0, 1000))
def test_simclr_is_cross_entropy_over_all_other_rows(b, temperature, seed):
    z0, z1 = rows(b, 5, seed), rows(b, 5, seed + 1)
    logits = torch.cat([z0, z1]) @ torch.cat([z0, z1]).T / temperature
    logits = logits.masked_fill(torch.eye(2 * b, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(logits, torch.arange(2 * b).roll(b))
    torch.testing.assert_close(InfoNCE(temperature)(Contrast.pairs(z0, z1)), expected, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 8), TEMPERATURE, st.integers(0, 1000))
def test_clip_is_half_the_sum_of_two_cross_entropies(b, temperature, seed):
    image, text = rows(b, 5, seed), rows(b, 5, seed + 1)
    logits, target = image @ text.T / temperature, torch.arange(b)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    ours = InfoNCE(temperature)(Contrast.pairs(image, text, both_ways=True))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 6), st.integers(0, 6), TEMPERATURE, st.integers(0, 1000))
def test_moco_is_cross_entropy_with_its_own_key_first(b, fill, temperature, seed):
    q, k, queue = rows(b, 5, seed), rows(b, 5, seed + 1), rows(fill, 5, seed + 2)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1) / temperature
    expected = F.cross_entropy(logits, torch.zeros(b, dtype=torch.int64))
    stale = torch.ones(fill, dtype=torch.bool)
    contrast = Contrast(q, block(range(b), 0), k, queue, block(range(100, 100 + fill), 1, first=100), stale)
    torch.testing.assert_close(InfoNCE(temperature)(contrast), expected, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 8), TEMPERATURE, st.integers(0, 1000))
def test_supcon_of_unique_groups_is_simclr(b, temperature, seed):
    z0, z1 = rows(b, 5, seed), rows(b, 5, seed + 1)
    group = torch.randperm(50, generator=torch.Generator().manual_seed(seed))[:b]
    supcon = Contrast.of(torch.cat([z0, z1]), torch.cat([group, group]))
    loss = InfoNCE(temperature)
    torch.testing.assert_close(loss(supcon), loss(Contrast.pairs(z0, z1)))


# The collapsed value: log(number of candidates), exactly.

CONSTANT = st.sampled_from([0.0, 0.5, -1.0])


def collapsed(constant):
    return lambda n, d, seed: torch.full((n, d), constant, dtype=torch.float64)


def total(provider, found, temperature):
    values = [InfoNCE(temperature)(contrast) for contrast in provider(found)]
    return [value.item() for value in values]


@given(st.integers(2, 8), CONSTANT, TEMPERATURE)
def test_collapsed_simclr(b, constant, temperature):
    found = embeddings(b, (0, 1), make=collapsed(constant))
    assert total(InBatch(True), found, temperature) == pytest.approx([math.log(2 * b - 1)], abs=1e-12)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=8), CONSTANT, TEMPERATURE)
def test_collapsed_supcon(group, constant, temperature):
    found = embeddings(len(group), (0, 1), group=group, make=collapsed(constant))
    assert total(InBatch(True), found, temperature) == pytest.approx([math.log(2 * len(group) - 1)], abs=1e-12)


@given(st.integers(2, 8), CONSTANT, st.sampled_from([0.01, 0.07, 1.0, 50.0]))
def test_collapsed_clip_in_both_directions(b, constant, temperature):
    found = embeddings(b, (0, 1), make=collapsed(constant))
    (both,) = InBatch(False)(found)
    loss = InfoNCE(temperature)
    swapped = Contrast(both.pool, both.pool_ids, pool=both.q, pool_ids=both.q_ids)
    directions = [loss(replace(both, both_ways=False)).item(), loss(swapped).item(), loss(both).item()]
    assert directions == pytest.approx([math.log(b)] * 3, abs=1e-11)


@given(st.integers(1, 6), st.integers(0, 9), CONSTANT, TEMPERATURE)
def test_collapsed_moco(b, fill, constant, temperature):
    queue = Queue(PositivesOnly(), size=9, dim=4).double()
    queue.ring.enqueue(torch.full((fill, 4), constant, dtype=torch.float64), block(range(fill), 1, first=50))
    found = embeddings(b, (0,), (1,), make=collapsed(constant))
    assert total(queue, found, temperature) == pytest.approx([math.log(1 + fill)], abs=1e-12)


@given(st.integers(2, 5), st.integers(0, 9), CONSTANT, TEMPERATURE)
def test_collapsed_supcon_with_a_queue(b, fill, constant, temperature):
    queue = Queue(InBatch(True), size=9, dim=4).double()
    queue.ring.enqueue(torch.full((fill, 4), constant, dtype=torch.float64), block([0] * fill, 1, first=50))
    found = embeddings(b, (0, 1), (0, 1), group=[0] * b, make=collapsed(constant))
    assert total(queue, found, temperature) == pytest.approx([math.log(2 * b - 1 + fill)], abs=1e-12)


def test_collapsed_in_float32():
    found = embeddings(64, (0, 1), make=lambda n, d, seed: F.normalize(torch.ones(n, d), dim=1))
    assert total(InBatch(True), found, 0.07) == pytest.approx([math.log(127)], rel=1e-5)
    assert total(InBatch(False), found, 0.01) == pytest.approx([math.log(64)], rel=1e-5)


# Invariances.


@given(contrasts([kind for kind in oracle.KINDS if kind != "itself"]), TEMPERATURE, st.integers(0, 1000))
def test_order_of_rows_changes_nothing(contrast, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    rows_, keys = (torch.randperm(len(x), generator=generator) for x in (contrast.q, contrast.pool))
    contrast, inputs = leaves(contrast)
    mixed, mixed_inputs = leaves(
        replace(
            contrast,
            q=contrast.q[rows_],
            q_ids=contrast.q_ids[rows_],
            paired=None if contrast.paired is None else contrast.paired[rows_],
            pool=contrast.pool[keys],
            pool_ids=contrast.pool_ids[keys],
            stale=None if contrast.stale is None else contrast.stale[keys],
        )
    )
    loss = InfoNCE(temperature)
    before, after = loss(contrast), loss(mixed)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
    orders = [rows_, keys, rows_]
    for mine, theirs, order in zip(gradients(after, mixed_inputs), gradients(before, inputs), orders, strict=False):
        torch.testing.assert_close(mine, theirs[order], rtol=1e-9, atol=1e-12)


@given(contrasts(), TEMPERATURE, st.integers(0, 1000))
def test_rotation_changes_nothing(contrast, temperature, seed):
    d = contrast.q.shape[1]
    turn, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    paired = None if contrast.paired is None else contrast.paired @ turn
    turned = replace(contrast, q=contrast.q @ turn, pool=contrast.pool @ turn, paired=paired)
    loss = InfoNCE(temperature)
    torch.testing.assert_close(loss(turned), loss(contrast), rtol=1e-9, atol=1e-9)


@given(st.integers(2, 8), TEMPERATURE, TEMPERATURE, st.integers(0, 1000), st.booleans())
def test_loss_rises_with_temperature_where_the_positive_is_the_top_key(n, one, other, seed, top):
    cold, warm = sorted((one, other))
    q, pool = rows(1, 4, seed).double(), rows(n, 4, seed + 1).double()
    similar = (pool @ q[0]).argsort(descending=top)
    ids = block(range(1, n + 1), 0, first=1)[similar.argsort()]  # sample 1 is the first in that order
    contrast = Contrast(q, torch.tensor([[1, 1, 5]]), pool=pool, pool_ids=ids)
    low, high = InfoNCE(cold)(contrast).item(), InfoNCE(warm)(contrast).item()
    assert low <= high + 1e-12 if top else low >= high - 1e-12
    if warm > 1.5 * cold:
        assert abs(high - low) > 1e-9


# Where numbers go wrong.


def finite(contrast, temperature=0.1, lonely="skip"):
    contrast, inputs = leaves(contrast)
    value = InfoNCE(temperature, lonely)(contrast)
    assert torch.isfinite(value)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(value, inputs))
    return value.item()


@given(LONELY)
def test_rows_that_meet_nothing_or_no_positive(lonely):
    alone = block([0], 0)
    assert finite(Contrast(rows(1, 3), alone, pool=rows(1, 3), pool_ids=alone, pool_is_q=True), lonely=lonely) == 0
    different = Contrast.of(rows(4, 3), torch.arange(4))
    assert finite(different, lonely=lonely) == 0
    nothing = Contrast(rows(3, 3), block(range(3), 0), pool=rows(0, 3), pool_ids=block([], 0))
    assert finite(nothing, lonely=lonely) == 0
    for both_ways in (False, True):
        assert finite(Contrast.pairs(rows(0, 3), rows(0, 3), both_ways), lonely=lonely) == 0


def test_lonely_rows_are_skipped_or_counted():
    z = rows(5, 3)
    labels = torch.tensor([0, 0, 1, 2, 3])  # two rows of five have a positive
    skip, count = (InfoNCE(0.5, lonely)(Contrast.of(z, labels)).item() for lonely in ("skip", "count"))
    assert skip > 0 and count == pytest.approx(skip * 2 / 5)


def test_an_empty_queue_gives_moco_zero():
    queue = Queue(PositivesOnly(), size=4, dim=3)
    (contrast,) = queue(embeddings(5, (0,), (1,), d=3))
    assert len(contrast.pool) == 0 and finite(contrast) == 0


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_opposed_vectors_at_scale_100(scale):
    axis = torch.tensor([[1.0, 0.0]])
    z0, z1 = axis.repeat(4, 1), -axis.repeat(4, 1)
    for both_ways in (False, True):
        value = finite(Contrast.pairs(z0, z1, both_ways), 1 / scale)
        # SimCLR: the positive and 3 rows at -1, 3 rows at +1. CLIP: everything at -1.
        expected = math.log(4) if both_ways else 2 * scale + math.log(3 + 4 * math.exp(-2 * scale))
        assert value == pytest.approx(expected, abs=1e-7 * scale, rel=1e-6)
    paired = Contrast(z0, block(range(4), 0), z1, z0, block(range(9, 13), 0, first=9), torch.ones(4, dtype=torch.bool))
    assert finite(paired, 1 / scale) == pytest.approx(2 * scale + math.log(4 + math.exp(-2 * scale)), rel=1e-6)


def test_zero_vectors_and_an_identical_batch():
    for z in (torch.zeros(4, 3), torch.ones(4, 3)):
        assert finite(Contrast.pairs(z, z)) == pytest.approx(math.log(7), rel=1e-5)


@given(contrasts(), TEMPERATURE)
def test_autocast_changes_nothing(contrast, temperature):
    single = {
        name: getattr(contrast, name).float() for name in ("q", "pool", "paired") if getattr(contrast, name) is not None
    }
    contrast, loss = replace(contrast, **single), InfoNCE(temperature)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(contrast)
    assert value.dtype == torch.float32 and torch.equal(value, loss(contrast))


def test_the_loss_of_a_key_that_is_as_good_as_found_is_no_rounding_error():
    q = torch.eye(3)[:1].requires_grad_()
    contrast = Contrast(q, block([0], 0), torch.eye(3)[:1], -torch.eye(3)[:1], block([9], 0, first=1))
    value = InfoNCE(0.05)(contrast)
    value.backward()
    assert value.item() == pytest.approx(math.exp(-40), rel=1e-5, abs=0)  # log1p(e^-40), of logits of 20 and -20
    assert q.grad[0, 0].item() == pytest.approx(-40 * math.exp(-40), rel=1e-5, abs=0)


@given(contrasts(), TEMPERATURE, st.integers(1, 9))
def test_divisor_replaces_the_count_of_this_rank(contrast, temperature, divisor):
    loss = InfoNCE(temperature)
    shared = loss(replace(contrast, divisor=torch.tensor(float(divisor))))
    torch.testing.assert_close(shared * divisor, loss(contrast) * contrast.contributing.clamp(min=1))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperature_must_be_a_positive_number(temperature):
    with pytest.raises(ValueError, match=r"InfoNCE\.temperature"):
        InfoNCE(temperature)


def test_needs_a_pool():
    with pytest.raises(ValueError, match="PositivesOnly"):
        InfoNCE(0.1)(Contrast(rows(2, 3), block([0, 1], 0), paired=rows(2, 3)))
