"""The stem that ResNets get for pictures of 64 pixels and less."""

from timm.models.resnet import ResNet
from torch import nn


def with_small_stem(trunk: ResNet, stride: int = 1, width: int = 64) -> ResNet:
    """Replaces, in place, the 7x7 stride-2 convolution by a 3x3 of the given width, and drops the max-pool.

    Otherwise a 32-pixel picture ends as a map of 1x1 (SimCLR, Chen et al. 2020, appendix B.9).
    """
    trunk.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
    trunk.maxpool = nn.Identity()
    return trunk
