"""CLIP's text trunk."""

from contextlib import nullcontext
from typing import Any

import gin
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@gin.register
class TextTransformer(nn.Module):
    """Causal pre-norm transformer; a text's feature is the one at its end-of-text token (Radford et al. 2021, 2.4).

    The end-of-text token must be the largest id, as in CLIP's vocabulary. The reference uses QuickGELU; we use GELU.

    Args:
        vocabulary: number of token ids.
        context: most tokens a text may have.
        width: of features and residual stream.
        layers: number of transformer blocks.
        heads: attention heads a block.
        embedding_width: of the token table, projected up to `width`; None: `width` itself. A narrow table keeps the
            optimizer's work small where the vocabulary dwarfs the model.
    """

    def __init__(
        self,
        vocabulary: int = 49408,
        context: int = 77,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        embedding_width: int | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"TextTransformer: width {width} is not a multiple of heads {heads}")
        self.num_features = width
        narrow = embedding_width or width
        self.token = nn.Embedding(vocabulary, narrow)
        self.widen = nn.Identity() if narrow == width else nn.Linear(narrow, width, bias=False)
        self.position = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(
            _Block(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.01)

    def forward(self, tokens: Int64[Tensor, "n t"]) -> Float[Tensor, "n f"]:
        """Features at the largest token id of each text."""
        n, t = tokens.shape
        mask = nn.Transformer.generate_square_subsequent_mask(t, device=tokens.device)
        x = self.widen(self.token(tokens)) + self.position[:t]
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.norm(x[torch.arange(n, device=tokens.device), tokens.argmax(dim=1)])


class _Block(nn.TransformerEncoderLayer):
    """torch's, with the attention that is the fastest."""

    def forward(self, src: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # On CPU the fused attention's bfloat16 backward takes ten times the plain one's time (30 against 3 ms for 128
        # texts of 24 tokens, one thread); in float32 and without gradient it is the faster one.
        plain = src.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            return super().forward(src, *args, **kwargs)
