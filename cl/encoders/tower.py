"""One network and its heads."""

from collections.abc import Sequence

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.encoders.mlp import MLP
from cl.encoders.prototypes import Prototypes
from cl.encoders.recomputed import recompute_blocks


@gin.register
class Tower(nn.Module):
    """A trunk with named heads.

    Args:
        trunk: pictures `n 3 h w` in [0, 1], or token ids `n t`, to features `n f`.
        heads: by name, each `n f` to `n d`. A head's name is the embedding's where an encoder has no routes.
        frozen: no gradient, always in eval mode, absent from the optimizer (LiT).
        recompute: the trunk's blocks compute their activations again in the backward pass instead of keeping them.
        mean: of the pictures' channels. A part of the model, so training, evaluation and export cannot disagree.
        std: of the pictures' channels.

    Raises:
        ValueError: a linear head or MLP does not take what the trunk makes, where the trunk says; or `recompute` of a
            trunk without blocks.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        heads: dict[str, nn.Module],
        frozen: bool = False,
        recompute: bool = False,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
    ):
        super().__init__()
        # timm's words: some trunks end in a wider layer than `num_features`. A trunk that says neither is not checked.
        features = getattr(trunk, "head_hidden_size", None) or getattr(trunk, "num_features", None)
        for name, head in heads.items():
            wanted = head.in_features if isinstance(head, MLP | Prototypes | nn.Linear) else features
            if features not in (None, wanted):
                raise ValueError(
                    f"head {name!r} takes {wanted} features and the trunk makes {features}, so its first width must be "
                    f"{features}"
                )
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)
        self.frozen = frozen
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        if recompute:
            recompute_blocks(trunk)
        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Tower":
        """As `nn.Module.train`, except that a frozen tower stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Float[Tensor, "n f"]:
        """Trunk features."""
        if x.is_floating_point():
            x = (x - self.mean) / self.std
        return self.trunk(x)
