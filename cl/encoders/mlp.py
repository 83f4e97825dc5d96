"""Projector and predictor heads."""

from collections.abc import Callable, Sequence

import gin
from torch import Tensor, nn


@gin.register
class MLP(nn.Sequential):
    """Linear layers with normalisation and ReLU between them: `n widths[0]` to `n widths[-1]`.

    Published heads: SimCLR (2048, 2048, 2048, 128) with norm, also after the last layer; MoCo v2 (2048, 2048, 128)
    without norm; BYOL (2048, 4096, 256) with norm and no bias in the last layer; CLIP (f, d), no bias.

    Args:
        widths: of the input, every hidden layer and the output.
        norm: makes the normalisation of a hidden width; None: none.
        norm_last: makes that of the output, which no ReLU follows; None: none.
        bias_last: whether the last linear layer has a bias. Layers followed by a norm keep theirs, as the references.
    """

    def __init__(
        self,
        widths: Sequence[int],
        norm: Callable[[int], nn.Module] | None = None,
        norm_last: Callable[[int], nn.Module] | None = None,
        bias_last: bool = True,
    ):
        if len(widths) < 2:
            raise ValueError(f"MLP.widths needs an input and an output width, got {tuple(widths)}")
        layers: list[nn.Module] = []
        last = len(widths) - 2
        for i, (inner, outer) in enumerate(zip(widths, widths[1:], strict=False)):
            layers.append(nn.Linear(inner, outer, bias=i < last or bias_last))
            here = norm if i < last else norm_last
            if here is not None:
                layers.append(here(outer))
            if i < last:
                layers.append(nn.ReLU())
        super().__init__(*layers)
        self.in_features, self.out_features = widths[0], widths[-1]

    def forward(self, input: Tensor) -> Tensor:
        """`n widths[0]` to `n widths[-1]`; not normalised to the sphere, which is the encoder's work."""
        return super().forward(input)
