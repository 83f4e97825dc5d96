"""Finding a picture's caption among all captions, and the other way round."""

from collections.abc import Mapping
from typing import final

import gin
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cl.components import Capability, Encoder
from cl.errors import DataError
from cl.evaluation.evaluation import Split
from cl.evaluation.features import embed, similarities
from cl.evaluation.loaded_once import LoadedOnce
from cl.views.samples import DataSet
from cl.views.text import Tokenizer


@torch.no_grad()
def recall_at_1(
    queries: Float[Tensor, "m d"],
    query_groups: Int64[Tensor, "m"],
    keys: Float[Tensor, "n d"],
    key_groups: Int64[Tensor, "n"],
    chunk: int = 256,
) -> float:
    """Share of queries whose most similar key is of their own group; in [0, 1].

    Of equally similar keys the first is taken. At most `chunk n` similarities are in memory at a time.
    """
    nearest = torch.cat([similarities(rows, keys).argmax(dim=1) for rows in queries.split(chunk)])
    return float((key_groups[nearest] == query_groups).float().mean())


@final
@gin.register
class Retrieval:
    """Recall@1 of held-out pairs of picture and caption, both ways.

    Equal captions are one: a picture's answer is right if it reads like its own caption, and a caption's if that
    picture bears the same words. Every pair asks once each way, so a caption of three pictures asks three times.
    Pictures without a caption are left out.

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
        """'recall_at_1_chance': of answering with a random pair of the test split, the same both ways."""
        _, _, groups = self._pairs("test")
        return {"recall_at_1_chance": float((groups.bincount() / len(groups)).square().sum())}

    def __call__(self, encoder: Encoder, split: Split, device: torch.device) -> dict[str, float]:
        """'recall_at_1_image_to_text' and 'recall_at_1_text_to_image' on the split, in [0, 1]."""
        rows, captions, groups = self._pairs(split)
        groups = groups.to(device)
        images = embed(encoder, self.data[split].load(), self.image_view, device)[rows]
        texts = embed(encoder, self.tokenizer(captions), self.text_view, device)
        return {
            "recall_at_1_image_to_text": recall_at_1(images, groups, texts, torch.arange(len(texts), device=device)),
            "recall_at_1_text_to_image": recall_at_1(texts[groups], groups, images, groups),
        }

    def _pairs(self, split: Split) -> tuple[list[int], list[str], Int64[Tensor, "b"]]:
        # Which samples have a caption, the different captions, and which of these each of the samples has.
        captions = [texts[0] for texts in self.data[split].load().captions]
        rows = [row for row, caption in enumerate(captions) if caption]
        if not rows:
            raise DataError(
                f"None of the {len(captions)} samples of the {split} split has a caption, so nothing can be retrieved: "
                "give Retrieval data sets with captions."
            )
        different = list(dict.fromkeys(captions[row] for row in rows))
        number = {caption: index for index, caption in enumerate(different)}
        return rows, different, torch.tensor([number[captions[row]] for row in rows])
