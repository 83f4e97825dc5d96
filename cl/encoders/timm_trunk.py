"""A trunk by its timm name."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import gin
import timm
from timm.models.resnet import ResNet
from torch import nn

from cl.encoders.loaded import loaded
from cl.encoders.norms import placed_norm
from cl.encoders.small_stem import with_small_stem
from cl.errors import ConfigError


@gin.register("Timm")
def timm_trunk(
    name: str,
    args: dict[str, Any] | None = None,
    norm: Callable[[int], nn.Module] | None = None,
    small_pictures: bool = False,
    weights: str | None = None,
) -> nn.Module:
    """timm's model `name` without its classifier: `n 3 h w` to `n f`.

    Args:
        name: as `timm.list_models()` writes it.
        args: further arguments of the model's constructor, `{'img_size': 64}`.
        norm: makes the normalisation of a width, for models that take timm's `norm_layer`; None: the model's own.
        small_pictures: give a ResNet the 3x3 stem for 32-pixel pictures.
        weights: a safetensors file under timm's keys. Nothing is ever downloaded.
    """
    if name not in timm.list_models():
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3))
        raise ConfigError(
            f"timm has no model {name!r}{f'; near it are {near}' if near else ''}. See timm.list_models()."
        )
    options = dict(args or {})
    if norm is not None:
        options["norm_layer"] = placed_norm(norm)
    trunk = timm.create_model(name, pretrained=False, num_classes=0, **options)
    if small_pictures:
        if not isinstance(trunk, ResNet):
            raise ConfigError(f"small_pictures changes a ResNet's stem; {name!r} is a {type(trunk).__name__}.")
        trunk = with_small_stem(trunk)
    return trunk if weights is None else loaded(trunk, weights)
