import pytest
import torch
from torch import nn

from cl.encoders.mlp import MLP
from cl.encoders.norms import BatchNorm


def kinds(head):
    return [type(layer).__name__ for layer in head]


def test_published_heads():
    simclr = MLP((8, 8, 8, 4), norm=BatchNorm, norm_last=BatchNorm)
    assert kinds(simclr) == ["Linear", "BatchNorm", "ReLU"] * 2 + ["Linear", "BatchNorm"]
    assert kinds(MLP((8, 8, 4))) == ["Linear", "ReLU", "Linear"]  # MoCo v2
    byol = MLP((8, 16, 4), norm=BatchNorm, bias_last=False)
    assert kinds(byol) == ["Linear", "BatchNorm", "ReLU", "Linear"]
    assert byol[0].bias is not None and byol[-1].bias is None
    assert kinds(MLP((8, 8, 4), norm_last=BatchNorm)) == ["Linear", "ReLU", "Linear", "BatchNorm"]
    assert kinds(MLP((8, 4), bias_last=False)) == ["Linear"]  # CLIP


def test_widths_are_the_layers():
    head = MLP((3, 5, 7, 2))
    assert [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)] == [
        (3, 5),
        (5, 7),
        (7, 2),
    ]
    x = torch.randn(4, 3)
    expected = head[4](head[2](head[0](x).relu()).relu())
    torch.testing.assert_close(head(x), expected)


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match=r"MLP\.widths"):
        MLP((3,))
