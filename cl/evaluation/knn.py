"""Weighted nearest-neighbour classification, the field's quickest measure of features (Wu et al. 2018, section 3.4)."""

from collections.abc import Callable, Mapping
from typing import final

import gin
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from cl.components import Capability, Encoder
from cl.evaluation.accuracy import accuracy, labels_of
from cl.evaluation.evaluation import Split
from cl.evaluation.features import extract, similarities, to_input
from cl.evaluation.loaded_once import LoadedOnce
from cl.views.samples import DataSet, Samples


@torch.no_grad()
def knn_predict(
    bank: Float[Tensor, "n f"],
    bank_labels: Int64[Tensor, "n"],
    queries: Float[Tensor, "m f"],
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 256,
) -> Int64[Tensor, "m"]:
    """The class for which a query's k nearest bank rows vote most, by cosine s and with weight exp(s / temperature).

    A bank smaller than k votes as a whole; of equal votes the lowest class wins. At most `chunk n` similarities are
    in memory at a time.
    """
    bank, bank_labels = F.normalize(bank.float(), dim=1), bank_labels.to(bank.device)
    classes, bank_classes = bank_labels.unique(return_inverse=True)

    def vote(rows: Tensor) -> Tensor:
        nearest, index = similarities(F.normalize(rows.float(), dim=1), bank).topk(min(k, len(bank)), dim=1)
        # Relative to the nearest, so that no temperature overflows.
        weight = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(rows), len(classes)).scatter_add_(1, bank_classes[index], weight)
        return classes[votes.argmax(dim=1)]

    return torch.cat([vote(rows) for rows in queries.split(chunk)])


def knn_accuracy(
    bank: Float[Tensor, "n f"],
    bank_labels: Int64[Tensor, "n"],
    queries: Float[Tensor, "m f"],
    labels: Int64[Tensor, "m"],
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 256,
) -> float:
    """Share of the queries that `knn_predict` puts in their class."""
    return accuracy(knn_predict(bank, bank_labels, queries, k, temperature, chunk), labels)


@final
@gin.register
class KNN:
    """kNN accuracy of trunk features: held-out pictures against a bank of unaugmented training pictures.

    Args:
        bank: training pictures with labels.
        validation: pictures to tune and show progress on.
        test: pictures to quote.
        k: neighbours that vote.
        temperature: of their weights.
        view: the view number as which pictures enter the encoder.
    """

    name = "knn"
    needs: frozenset[Capability] = frozenset({"labels"})

    def __init__(
        self,
        bank: DataSet,
        validation: DataSet,
        test: DataSet,
        k: int = 20,
        temperature: float = 0.07,
        view: int = 0,
    ):
        if k < 1 or not temperature > 0:
            raise ValueError(f"KNN.k must be at least 1 and .temperature above 0, got {k} and {temperature}")
        self.data: Mapping[str, DataSet] = {
            "bank": LoadedOnce(bank),
            "validation": LoadedOnce(validation),
            "test": LoadedOnce(test),
        }
        self.k = k
        self.temperature = temperature
        self.view = view

    def baseline(self, device: torch.device) -> dict[str, float]:
        """'knn_raw_pixels': the same with the pictures themselves as features, on the test split."""
        return {"knn_raw_pixels": self._accuracy(lambda samples: raw_pixels(samples, device), "test")}

    def __call__(self, encoder: Encoder, split: Split, device: torch.device) -> dict[str, float]:
        """'knn': accuracy on the split, in [0, 1]."""
        return {"knn": self._accuracy(lambda samples: extract(encoder, samples, self.view, device), split)}

    def _accuracy(self, features: Callable[[Samples], Tensor], split: Split) -> float:
        bank, held_out = self.data["bank"].load(), self.data[split].load()
        return knn_accuracy(
            features(bank), labels_of(bank), features(held_out), labels_of(held_out), self.k, self.temperature
        )


def raw_pixels(samples: Samples, device: torch.device, chunk: int = 256) -> Float[Tensor, "b f"]:
    """The pictures as rows; of more than 32 pixels a side, averaged down to 32."""
    height, width = (min(side, 32) for side in samples.images.shape[2:])
    pieces = (to_input(images, device) for images in samples.images.split(chunk))
    small = torch.cat([F.adaptive_avg_pool2d(images, (height, width)) for images in pieces])
    return rearrange(small, "b c h w -> b (c h w)")
