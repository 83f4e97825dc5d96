"""A linear classifier on frozen features, the field's standard measure of what they hold."""

from collections.abc import Mapping, Sequence
from typing import final

import gin
import torch
from jaxtyping import Float, Int64
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cl.components import Capability, Encoder
from cl.errors import DataError
from cl.evaluation.accuracy import accuracy, labels_of
from cl.evaluation.evaluation import Split
from cl.evaluation.features import extract
from cl.evaluation.loaded_once import LoadedOnce
from cl.views.samples import DataSet


def linear_probe(
    train: tuple[Float[Tensor, "n f"], Int64[Tensor, "n"]],
    validation: tuple[Float[Tensor, "m f"], Int64[Tensor, "m"]],
    test: tuple[Float[Tensor, "b f"], Int64[Tensor, "b"]],
    strengths: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0),
) -> dict[str, float]:
    """Accuracies of a logistic regression on features that are standardised by the training rows.

    It is fitted once for every C (inverse penalty) in `strengths`. The one with the best validation accuracy, of
    equals the smallest, is asked about the test rows. Returns 'C', 'validation' and 'test'.
    """
    fits = []
    for strength in sorted(strengths):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        model.fit(train[0].cpu().numpy(), train[1].cpu().numpy())
        fits.append((_accuracy(model, validation), strength, model))
    reached, strength, model = max(fits, key=lambda fit: fit[0])
    return {"C": strength, "validation": reached, "test": _accuracy(model, test)}


@final
@gin.register
class Probe:
    """Accuracy of a linear probe on trunk features of unaugmented pictures.

    Args:
        bank: training pictures with labels.
        validation: pictures that choose the probe's penalty.
        test: pictures to quote.
        strengths: inverse penalties to choose from.
        view: the view number as which pictures enter the encoder.
    """

    name = "probe"
    needs: frozenset[Capability] = frozenset({"labels"})

    def __init__(
        self,
        bank: DataSet,
        validation: DataSet,
        test: DataSet,
        strengths: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0),
        view: int = 0,
    ):
        if not strengths or not min(strengths) > 0:
            raise ValueError(f"Probe.strengths must be one or more numbers above 0, got {strengths}")
        self.data: Mapping[str, DataSet] = {
            "bank": LoadedOnce(bank),
            "validation": LoadedOnce(validation),
            "test": LoadedOnce(test),
        }
        self.strengths = strengths
        self.view = view

    def baseline(self, device: torch.device) -> dict[str, float]:
        """Empty."""
        return {}

    def __call__(self, encoder: Encoder, split: Split, device: torch.device) -> dict[str, float]:
        """'linear_probe': accuracy on the split, in [0, 1]; that on validation also chose the penalty."""

        def labelled(role: str) -> tuple[Tensor, Tensor]:
            samples = self.data[role].load()
            return extract(encoder, samples, self.view, device), labels_of(samples)

        if len(labels_of(self.data["bank"].load()).unique()) < 2:
            raise DataError("Probe.bank has pictures of one label alone, and a classifier tells two or more apart.")
        found = linear_probe(labelled("bank"), labelled("validation"), labelled("test"), self.strengths)
        return {"linear_probe": found[split]}


def _accuracy(model: Pipeline, labelled: tuple[Tensor, Tensor]) -> float:
    features, labels = labelled
    return accuracy(torch.from_numpy(model.predict(features.cpu().numpy())), labels.cpu())
