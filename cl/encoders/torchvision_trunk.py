"""A trunk by its torchvision name."""

import gin
import torchvision
from torch import nn

from cl.errors import ConfigError


@gin.register("Torchvision")
def torchvision_trunk(name: str) -> nn.Module:
    """torchvision's model `name` without its classifier, random weights: `n 3 h w` to `n f`.

    Raises:
        ConfigError: there is none, it has no linear classifier that could be taken off, or several.
    """
    if name not in torchvision.models.list_models(torchvision.models):
        raise ConfigError(f"torchvision has no model {name!r}. See torchvision.models.list_models().")
    trunk = torchvision.models.get_model(name, weights=None)
    for classifier in ("fc", "heads", "head", "classifier"):
        layers = getattr(trunk, classifier, None)
        if isinstance(layers, nn.Linear | nn.Sequential) and not hasattr(trunk, "aux_logits"):
            before = _before_linear(layers) if isinstance(layers, nn.Sequential) else []
            if before is not None:
                setattr(trunk, classifier, nn.Sequential(*before) if before else nn.Identity())
                return trunk
    raise ConfigError(
        f"torchvision's {name!r} has no classifier that could be taken off, or several; use a Timm trunk instead."
    )


def _before_linear(layers: nn.Sequential) -> list[nn.Module] | None:
    # Some models pool, flatten or normalise their features in the classifier.
    before: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.Linear):
            return before
        if not isinstance(layer, nn.Dropout):
            before.append(layer)
    return None
