"""Classification by prompts: the class whose sentences lie nearest to the picture (Radford et al. 2021, 3.1)."""

from collections.abc import Mapping, Sequence
from typing import final

import gin
import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from cl.components import Capability, Encoder
from cl.errors import DataError
from cl.evaluation.accuracy import accuracy, labels_of
from cl.evaluation.evaluation import Split
from cl.evaluation.features import embed, similarities
from cl.evaluation.loaded_once import LoadedOnce
from cl.views.samples import DataSet
from cl.views.text import Tokenizer


@final
@gin.register
class ZeroShot:
    """Accuracy of an image-text encoder that names held-out pictures without having seen a label.

    A class is the mean of the unit embeddings of its prompts, normalised again.

    Args:
        validation: pictures to tune and show progress on.
        test: pictures to quote.
        tokenizer: the one the text tower was trained with.
        classes: names, in the order of the labels.
        prompts: sentences with {} in the place of the name.
        image_view: the view number of pictures.
        text_view: the view number of texts.
    """

    name = "zero_shot"
    needs: frozenset[Capability] = frozenset({"labels"})

    def __init__(
        self,
        validation: DataSet,
        test: DataSet,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        prompts: Sequence[str],
        image_view: int = 0,
        text_view: int = 1,
    ):
        if not classes or not prompts:
            raise ValueError("ZeroShot.classes and .prompts must not be empty")
        self.data: Mapping[str, DataSet] = {"validation": LoadedOnce(validation), "test": LoadedOnce(test)}
        self.tokenizer = tokenizer
        self.classes = classes
        self.prompts = prompts
        self.image_view = image_view
        self.text_view = text_view

    def baseline(self, device: torch.device) -> dict[str, float]:
        """'zero_shot_chance': accuracy of guessing."""
        return {"zero_shot_chance": 1 / len(self.classes)}

    def __call__(self, encoder: Encoder, split: Split, device: torch.device) -> dict[str, float]:
        """'zero_shot': accuracy on the split, in [0, 1]."""
        samples = self.data[split].load()
        labels = labels_of(samples)
        if len(labels) and int(labels.max()) >= len(self.classes):
            raise DataError(
                f"Zero-shot evaluation names {len(self.classes)} classes, but sample "
                f"{samples.keys[int(labels.argmax())]!r} of the {split} split has label {int(labels.max())}: "
                "give ZeroShot.classes one name for every label, in the order of the labels."
            )
        images = embed(encoder, samples, self.image_view, device)
        return {"zero_shot": accuracy(similarities(images, self.class_rows(encoder, device)).argmax(dim=1), labels)}

    def class_rows(self, encoder: Encoder, device: torch.device) -> Float[Tensor, "c d"]:
        """One unit row for every class."""
        sentences = [prompt.format(name) for name in self.classes for prompt in self.prompts]
        rows = embed(encoder, self.tokenizer(sentences), self.text_view, device)
        return F.normalize(reduce(rows, "(c p) d -> c d", "mean", p=len(self.prompts)), dim=1)
