"""A trunk that another run has trained."""

from pathlib import Path

import gin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cl.errors import ConfigError


@gin.register("Loaded")
def loaded(trunk: nn.Module, weights: str) -> nn.Module:
    """The trunk with weights from a file: a run's `trunk.<tower>.safetensors`, or any under the trunk's own keys.

    Args:
        trunk: as that run built it.
        weights: a safetensors file on this machine. Nothing is ever downloaded.
    """
    if not Path(weights).is_file():
        raise ConfigError(f"Weights of a trunk: there is no file {weights!r}. Give a trunk.*.safetensors of a run.")
    try:
        trunk.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"{weights!r} does not hold such a {type(trunk).__name__}: {said}") from error
    return trunk
