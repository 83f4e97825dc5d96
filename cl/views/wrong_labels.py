"""A data set some of whose labels are wrong."""

from collections.abc import Iterator
from dataclasses import replace

import gin
import torch

from cl.components import Capability
from cl.errors import DataError
from cl.views.random import uniforms
from cl.views.samples import DataSet, Samples


@gin.register
class WrongLabels:
    """Wraps a data set and gives a share of its samples another label: symmetric label noise, to be trained on.

    Which samples, and which of the other classes each gets (all alike), is a function of the seed and the sample, so it
    is the same in every epoch and on every rank. What evaluates is bound to the data set itself and stays clean. A
    sample without a label keeps none.

    Args:
        data: the data set, with labels.
        share: expected share of the labelled samples that are wrong, in [0, 1].
        classes: how many; labels count from 0.
        seed: of another choice.

    Raises (when read):
        DataError: a label is none of the classes.
    """

    def __init__(self, data: DataSet, share: float, classes: int, seed: int = 0):
        if not 0 <= share <= 1:
            raise ValueError(f"WrongLabels.share must lie in [0, 1], got {share}")
        if classes < 2:
            raise ValueError(f"WrongLabels.classes must be at least 2, got {classes}")
        self.data = data
        self.share = share
        self.classes = classes
        self.seed = seed
        self.provides: frozenset[Capability] = data.provides

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All samples once, in shard order, at most `chunk` at a time."""
        return map(self._relabelled, self.data.read(chunk))

    def load(self) -> Samples:
        """All samples at once."""
        return self._relabelled(self.data.load())

    def _relabelled(self, samples: Samples) -> Samples:
        label = samples.label
        if len(samples) and label.max() >= self.classes:
            raise DataError(
                f"There is a label {int(label.max())}, and WrongLabels.classes is {self.classes}: labels count from 0. "
                "Correct WrongLabels.classes."
            )
        chosen, other = uniforms(self.seed, -1, samples.sample, 0, 2).unbind(dim=1)
        turned = (label + 1 + (other * (self.classes - 1)).long()) % self.classes
        return replace(samples, label=torch.where((chosen < self.share) & (label >= 0), turned, label))
