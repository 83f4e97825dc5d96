"""A component of a user's own: views that are fine, but on one rank and from one batch on."""

import gin
import torch

from cl.distributed import rank
from cl.views.augment import BatchAugment


@gin.register
class Poisoned:
    """`BatchAugment`'s views; on rank 1 not a number, from the third batch on."""

    needs = frozenset()

    def __init__(self, size: int):
        self.augment = BatchAugment(size=size)
        self.calls = 0

    def prepare(self, samples):
        return self.augment.prepare(samples)

    def __call__(self, rows, sample, seed, epoch, view):
        self.calls += 1
        made = self.augment(rows, sample, seed, epoch, view)
        return made * torch.nan if rank() == 1 and self.calls == 3 else made
