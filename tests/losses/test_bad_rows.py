"""Rows as bad as they come: every loss stays finite, or says that it is not."""

import pytest
import torch
from tiny import block

from cl.losses.alignment import Alignment
from cl.losses.barlow_twins import BarlowTwins
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.losses.vicreg import VICReg
from cl.types import Contrast

POOLED = {
    "info_nce": lambda: InfoNCE(LearnedTemperature(0.01)),
    "smoothed": lambda: InfoNCE(LearnedTemperature(0.01), smoothing=0.1),
    "bf16 products": lambda: InfoNCE(LearnedTemperature(0.01), products="bfloat16"),
    "decoupled": lambda: DecoupledInfoNCE(LearnedTemperature(0.01)),
    "hard negatives": lambda: HardNegativeInfoNCE(LearnedTemperature(0.01)),
    "sigmoid": lambda: Sigmoid(LearnedTemperature(0.01)),
}
PAIRED = {"alignment": Alignment, "vicreg": VICReg, "barlow twins": BarlowTwins}

ROWS = {
    "zero vectors": torch.zeros(6, 4),
    "one point": torch.nn.functional.normalize(torch.ones(6, 4), dim=1),
    "two opposed points": torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]]).repeat(3, 1),
}


def contrasts(z):
    half = len(z) // 2
    yield Contrast.pairs(z[:half], z[half:])
    yield Contrast.pairs(z[:half], z[half:], both_ways=True)
    yield Contrast(z[:half], block(range(half), 0), z[half:], z.detach()[:0], torch.zeros(0, 3, dtype=torch.int64))
    # Nobody has a positive.
    yield Contrast(z[:half], block(range(half), 0), pool=z[half:], pool_ids=block(range(9, 9 + half), 0, first=9))


def checked(loss, contrast, z):
    value = loss(contrast)
    value.backward()
    trained = [p.grad for p in loss.parameters() if p.grad is not None]
    assert value.isfinite() and all(grad.isfinite().all() for grad in (z.grad, *trained))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", POOLED)
def test_losses_over_a_pool_stay_finite(name, kind):
    for number in range(4):
        z = ROWS[kind].clone().requires_grad_()
        checked(POOLED[name](), list(contrasts(z))[number], z)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", PAIRED)
def test_losses_of_pairs_stay_finite(name, kind):
    z = ROWS[kind].clone().requires_grad_()
    checked(PAIRED[name](), Contrast(z[:3], block(range(3), 0), paired=z[3:]), z)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [*POOLED, *PAIRED])
def test_a_row_that_is_not_a_number_shows(name, value):
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    z[1, 2] = value
    if name in POOLED:
        assert not POOLED[name]()(Contrast.pairs(z[:3], z[3:])).isfinite()
    else:
        assert not PAIRED[name]()(Contrast(z[:3], block(range(3), 0), paired=z[3:])).isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["pool", "paired"])
@pytest.mark.parametrize("name", POOLED)
def test_a_key_that_is_not_a_number_shows(name, place, value):
    z = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    keys, ids = z.clone(), block(range(9, 15), 0, first=9)
    keys[1, 2] = value
    paired, pool = (z, keys) if place == "pool" else (keys, z)
    stale = torch.ones(6, dtype=torch.bool)
    assert not POOLED[name]()(Contrast(z, block(range(6), 0), paired, pool, ids, stale)).isfinite()


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("loss", [InfoNCE, DecoupledInfoNCE, HardNegativeInfoNCE, Sigmoid])
@pytest.mark.parametrize("setting", [{"tile": 0}, {"tile": -1}, {"products": "bf16"}])
def test_tiles_out_of_range_are_named(loss, setting):
    with pytest.raises(ValueError, match=rf"{loss.__name__}\.{next(iter(setting))} must be"):
        loss(0.1, **setting)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("loss", [InfoNCE, DecoupledInfoNCE])
def test_rows_without_positives_are_skipped_or_counted(loss):
    with pytest.raises(ValueError, match=rf"{loss.__name__}\.lonely must be one of skip, count, got 'drop'"):
        loss(0.1, lonely="drop")


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("loss", [InfoNCE, DecoupledInfoNCE, HardNegativeInfoNCE, Sigmoid])
def test_temperatures_out_of_range_are_named(loss, temperature):
    with pytest.raises(ValueError, match=f"{loss.__name__}.temperature must be a positive number"):
        loss(temperature)
