"""Brightness, contrast, saturation, hue and gray as one affine map of colours.

Hue turns the chroma plane of YIQ, which keeps luma. As saturation and hue leave luma alone and contrast adds a gray,
the operations commute: an order matters only to what clips between them, and nothing does here.
"""

from collections.abc import Sequence
from math import pi

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from cl.views.augment_settings import AugmentSettings

_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
_RGB = torch.linalg.inv(_YIQ)
# What a colour is made of: its luma; its chroma; its chroma a quarter turn on.
_PARTS = torch.stack(
    [
        torch.outer(_RGB[:, 0], _YIQ[0]),
        torch.outer(_RGB[:, 1], _YIQ[1]) + torch.outer(_RGB[:, 2], _YIQ[2]),
        torch.outer(_RGB[:, 2], _YIQ[1]) - torch.outer(_RGB[:, 1], _YIQ[2]),
    ]
)


def drawn_colours(
    settings: AugmentSettings, draws: Sequence[Float[Tensor, "b"]]
) -> tuple[tuple[Float[Tensor, "b"], ...], Float[Tensor, "b"], Bool[Tensor, "b"]]:
    """What `colour_map` is asked for: factors, turn and gray, of six uniform draws a picture.

    The draws are those of jitter, brightness, contrast, saturation, hue and gray.
    """
    jitter, brightness, contrast, saturation, hue, gray = draws
    on = (jitter < settings.jitter).float()
    factors = tuple(
        1 + on * ((max(0.0, 1 - amount) - 1) + (1 + amount - max(0.0, 1 - amount)) * draw)
        for amount, draw in (
            (settings.brightness, brightness),
            (settings.contrast, contrast),
            (settings.saturation, saturation),
        )
    )
    return factors, on * (2 * hue - 1) * (2 * pi * settings.hue), gray < settings.gray


def colour_map(
    mean: Float[Tensor, "b 3"],
    factors: tuple[Float[Tensor, "b"], ...],
    turn: Float[Tensor, "b"],
    gray: Tensor,
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3 1"]]:
    """The affine map of colours that changes brightness, contrast, saturation, hue and gray, in this order.

    `factors` are those of brightness, contrast and saturation; `mean` is each picture's mean colour, about whose luma
    contrast turns; `turn` is in radians; `gray` is boolean.
    """
    brightness, contrast, saturation = factors
    offset = (1 - contrast) * brightness * (mean @ _YIQ[0].to(mean))
    # Saturation and hue act on the chroma plane alone: a scaled rotation there.
    chroma = saturation * ~gray
    shares = torch.stack([torch.ones_like(chroma), chroma * turn.cos(), chroma * turn.sin()], dim=1)
    matrix = einsum(shares * (brightness * contrast)[:, None], _PARTS.to(mean), "b part, part i j -> b i j")
    return matrix, offset[:, None, None].expand(-1, 3, 1)
