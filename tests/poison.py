"""Components of a user's own: views and a loss that are fine, but for one rank's third batch."""

import gin
import torch

from cl.distributed import rank
from cl.losses.info_nce import InfoNCE
from cl.views.augment import BatchAugment


@gin.register
class Overflowing(InfoNCE):
    """A finite loss; on rank 1 `times` gradients are not, from the third batch's on."""

    def __init__(self, temperature: float, times: int = 1):
        super().__init__(temperature)
        self.times = times

    def forward(self, contrast):
        # `cl.rules` tries losses on made-up rows, without gradient.
        self.calls = getattr(self, "calls", 0) + contrast.q.requires_grad
        if rank() == 1 and 3 <= self.calls < 3 + self.times:
            contrast.q.register_hook(lambda gradient: gradient * torch.inf)
        return super().forward(contrast)


@gin.register
class Poisoned:
    """`BatchAugment`'s views; on rank 1 not a number, in the third batch."""

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
