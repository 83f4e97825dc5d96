"""A loss is as wide as the queries or wider, float32 at least, whatever keys and its own parameters are."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cl.losses.alignment import Alignment
from cl.losses.barlow_twins import BarlowTwins
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.self_distillation import SelfDistillation
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.losses.vicreg import VICReg
from cl.precision import wide
from cl.types import Contrast

LOSSES = {
    "InfoNCE": lambda: InfoNCE(LearnedTemperature(0.5)),
    "smoothed": lambda: InfoNCE(0.5, smoothing=0.1),
    "decoupled": lambda: DecoupledInfoNCE(0.5),
    "hard negatives": lambda: HardNegativeInfoNCE(0.5),
    "sigmoid": lambda: Sigmoid(LearnedTemperature(0.5)),
    "alignment": Alignment,
    "VICReg": VICReg,
    "Barlow Twins": BarlowTwins,
    "self-distillation": lambda: SelfDistillation(dim=4, student=0.2, teacher=0.1),
}
WIDTHS = [torch.bfloat16, torch.float32, torch.float64]


def value(loss, widths):
    generator = torch.Generator().manual_seed(0)
    q, paired, pool = (
        F.normalize(torch.randn(n, 4, generator=generator), dim=1).bfloat16().to(width)
        for n, width in zip((6, 6, 9), widths, strict=True)
    )
    sample = torch.arange(15)
    ids = torch.stack([sample, sample, torch.zeros_like(sample)], dim=1)
    q.requires_grad_()
    found = LOSSES[loss]()(Contrast(q, ids[:6], paired, pool, ids[6:]))
    found.backward()
    return found, q.grad


@pytest.mark.parametrize("loss", LOSSES)
@given(widths=st.tuples(*[st.sampled_from(WIDTHS)] * 3))
def test_keys_of_another_width(loss, widths):
    """Of numbers that bfloat16 holds, so that all widths stand for the same rows."""
    (found, gradient), (wanted, wanted_gradient) = value(loss, widths), value(loss, [torch.float64] * 3)
    assert found.dtype in (wide(torch.empty(0, dtype=widths[0])).dtype, torch.float64)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert gradient.dtype == widths[0]
    near = 1e-2 if widths[0] == torch.bfloat16 else 1e-5
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=near, atol=near)
