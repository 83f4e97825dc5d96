"""A recipe trained by tiles goes as one trained by the cross-entropy over the whole matrix, as one would write it."""

import pytest
import torch
from oracle import matrices
from torch import nn

from cl import wiring
from cl.components import Step
from cl.losses.temperature import inverse
from cl.run_folder import RunFolder

STEPS = 6


class Whole(nn.Module):
    """`InfoNCE` by PyTorch's own log-softmax over all logits."""

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, contrast):
        met, positive = matrices(contrast)
        logits = (contrast.q @ contrast.pool.T * inverse(self.temperature)).masked_fill(~met, -torch.inf)
        ways = [(logits, positive)]
        if contrast.both_ways:
            ways.append((logits.T, positive.T))
        if contrast.paired is not None:
            paired = (contrast.q * contrast.paired).sum(dim=1, keepdim=True) * inverse(self.temperature)
            own = torch.ones(len(paired), 1, dtype=torch.bool)
            ways = [(torch.cat([paired, logits], dim=1), torch.cat([own, positive], dim=1))]
        rows = [
            -logits.log_softmax(dim=1).masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
            for logits, positive in ways
        ]
        return torch.cat(rows).sum() / sum(positive.any(dim=1).sum() for _, positive in ways)


def losses(recipe, folder, whole):
    """Of the first steps of a recipe at seed 0."""
    params = ["MemoryViews.batch = 32", "cl.train.precision = 'float32'"]
    torch.manual_seed(0)
    training = wiring.read([f"gin/{recipe}.gin"], params).build()
    if whole:
        for term in training.objective.terms.values():
            term.loss = Whole(term.loss.temperature)
    training.start()
    batches, run = training.views.iterate(training.place), RunFolder(folder, resume=False)
    found = []
    for index in range(STEPS):
        output, _, _ = training.step(Step(index, STEPS), batches, run)
        found.append(output.loss.item())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["simclr", "moco_v2", "supcon", "supcon_queue", "clip"])
def test_the_losses_of_a_run_are_those_of_the_whole_matrix(recipe, tmp_path):
    ours, whole = (losses(recipe, tmp_path / str(each), each) for each in (False, True))
    torch.testing.assert_close(ours[:2], whole[:2], rtol=1e-5, atol=0)  # MoCo's queue is empty at first
    # AdamW makes whole steps of rounding, where a gradient is next to nothing.
    torch.testing.assert_close(ours, whole, rtol=1e-3, atol=0)
