"""A head that is none."""

import gin
from torch import nn


@gin.register("Identity")
def identity() -> nn.Module:
    """The trunk's features themselves, `n f` to `n f`: for a frozen tower, whose heads would stay random."""
    return nn.Identity()
