"""Finding a picture's caption among all captions, and the other way round."""

from collections.abc import Mapping
from typing import final

import gin
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cl.components import Capability, Encoder
from cl.errors import DataError
from cl.evaluation.evaluation import Split
from cl.evaluation.features import embed, similarities
from cl.evaluation.loaded_once import LoadedOnce
from cl.views.samples import DataSet
from cl.views.text import Tokenizer


@torch.no_grad()
def hits_at_1(
    queries: Float[Tensor, "m d"], keys: Float[Tensor, "n d"], right: Int64[Tensor, "p 2"], chunk: int = 256
) -> Bool[Tensor, "m"]:
    """Whether each query's most similar key is right for it: `right` lists all pairs (query, key) that are.

    Of equally similar keys the first is taken. At most `chunk n` similarities are in memory at a time.
    """
    nearest = torch.cat([similarities(rows, keys).argmax(dim=1) for rows in queries.split(chunk)])
    found = torch.arange(len(queries), device=nearest.device) * len(keys) + nearest
    return torch.isin(found, right[:, 0] * len(keys) + right[:, 1])


@final
@gin.register
class Retrieval:
    """Recall@1 of held-out pairs of picture and caption, both ways.

    A picture asks once, and is answered right by any of its captions; each of its captions asks once for it (the way of
    Karpathy and Fei-Fei 2015, arXiv:1412.2306, section 4.1). Equal captions are one: a picture's answer is right if it
    reads like a caption of its own, and a caption's if that picture bears the same words. Pictures without a caption
    are left out.

    Args:
        validation: pairs to tune and show progress on.
        test: pairs to quote.
        tokenizer: the one the text tower was trained with.
        image_view: the view number of pictures.
        text_view: the view number of texts.
    """

    name = "retrieval"
    needs: frozenset[Capability] = frozenset({"captions"})

    def __init__(
        self, validation: DataSet, test: DataSet, tokenizer: Tokenizer, image_view: int = 0, text_view: int = 1
    ):
        self.data: Mapping[str, DataSet] = {"validation": LoadedOnce(validation), "test": LoadedOnce(test)}
        self.tokenizer = tokenizer
        self.image_view = image_view
        self.text_view = text_view

    def baseline(self, device: torch.device) -> dict[str, float]:
        """'recall_at_1_chance': of a caption of the test split that is answered with any of its pictures."""
        rows, _, right = self._pairs("test")
        bearers = right[:, 1].bincount()
        return {"recall_at_1_chance": float(bearers[right[:, 1]].double().mean() / len(rows))}

    def __call__(self, encoder: Encoder, split: Split, device: torch.device) -> dict[str, float]:
        """'recall_at_1_image_to_text' and 'recall_at_1_text_to_image' on the split, in [0, 1]."""
        rows, captions, right = self._pairs(split)
        right = right.to(device)
        images = embed(encoder, self.data[split].load(), self.image_view, device)[rows]
        texts = embed(encoder, self.tokenizer(captions), self.text_view, device)
        return {
            "recall_at_1_image_to_text": float(hits_at_1(images, texts, right).float().mean()),
            "recall_at_1_text_to_image": float(hits_at_1(texts, images, right.flip(1))[right[:, 1]].float().mean()),
        }

    def _pairs(self, split: Split) -> tuple[list[int], list[str], Int64[Tensor, "p 2"]]:
        # Which samples have a caption, the different captions, and all pairs of a sample (its place in the first) and
        # a caption (its place in the second).
        bearing = [list(dict.fromkeys(filter(None, texts))) for texts in self.data[split].load().captions]
        rows = [row for row, texts in enumerate(bearing) if texts]
        if not rows:
            raise DataError(
                f"None of the {len(bearing)} samples of the {split} split has a caption, so nothing can be retrieved: "
                "give Retrieval data sets with captions."
            )
        different = list(dict.fromkeys(text for texts in bearing for text in texts))
        number = {caption: index for index, caption in enumerate(different)}
        pairs = [(place, number[text]) for place, row in enumerate(rows) for text in bearing[row]]
        return rows, different, torch.tensor(pairs)
