"""The built-in run's trunk: a ResNet of four basic blocks with a stem for small pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import gin
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from cl.encoders.norms import BatchNorm, placed_norm
from cl.encoders.small_stem import with_small_stem


@gin.register("SmallResNet")
def small_resnet(
    widths: Sequence[int] = (32, 64, 128, 256), stride: int = 1, norm: Callable[[int], nn.Module] = BatchNorm
) -> nn.Module:
    """`n 3 h w` to `n widths[-1]`: timm's ResNet of one basic block a stage, behind a 3x3 stem.

    The stages work at `stride` times 1, 2, 4 and 8 pixels; a stem of stride 2 is nearly four times faster. 1.2 M
    parameters at the default widths. State-dict keys are timm's.
    """
    if len(widths) != 4:
        raise ValueError(f"SmallResNet has four stages: give four widths, not {tuple(widths)}")

    block: Any = BasicBlock  # timm annotates an instance and takes the class
    layer, stem = placed_norm(norm), widths[0]
    trunk = ResNet(block, (1, 1, 1, 1), channels=tuple(widths), num_classes=0, norm_layer=layer)
    # timm's stem has 64 channels whatever the widths; half of them save a quarter of the trunk's time.
    trunk.bn1, trunk.layer1 = layer(stem), nn.Sequential(block(stem, stem, norm_layer=layer))
    with_small_stem(trunk, stride, stem).init_weights()
    return trunk
