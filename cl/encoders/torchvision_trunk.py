"""A trunk by its torchvision name."""

import gin
import torchvision
from torch import nn

from cl.errors import ConfigError


@gin.register("Torchvision")
def torchvision_trunk(name: str) -> nn.Module:
    """torchvision's model `name` without its classifier, random weights: `n 3 h w` to `n f`."""
    if name not in torchvision.models.list_models(torchvision.models):
        raise ConfigError(f"torchvision has no model {name!r}. See torchvision.models.list_models().")
    trunk = torchvision.models.get_model(name, weights=None)
    for classifier in ("fc", "heads", "head", "classifier"):
        if hasattr(trunk, classifier):
            setattr(trunk, classifier, nn.Identity())
            return trunk
    raise ConfigError(f"torchvision's {name!r} has no classifier that could be taken off; use a Timm trunk instead.")
