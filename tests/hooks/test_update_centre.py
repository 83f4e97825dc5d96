import pytest
import torch
from tiny import embeddings, output, tower
from torch import nn

from cl.components import PostStepHook, Step
from cl.encoders.momentum import Momentum
from cl.encoders.siamese import siamese
from cl.hooks.update_centre import UpdateCentre
from cl.losses.alignment import Alignment
from cl.losses.self_distillation import SelfDistillation
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Objective, Term


def test_the_centre_moves_towards_the_mean_key_of_every_term_that_has_one():
    distilled, other = Term(PositivesOnly(), SelfDistillation(4)), Term(PositivesOnly(), Alignment())
    objective = Objective(Momentum(siamese(tower(), unit_norm=False)), {"a": distilled, "b": other})
    found, hook = embeddings(3, (0, 1, 2), (0, 1)), UpdateCentre(momentum=0.75)
    assert isinstance(hook, PostStepHook) and hook.state_dict() == {}
    expected = torch.zeros(4)
    for step in range(3):
        logged = hook(objective, output(z=found), Step(step, 3))
        expected = 0.75 * expected + 0.25 * found.k.mean(dim=0)
        torch.testing.assert_close(distilled.loss.centre, expected)
        torch.testing.assert_close(logged["centre/a"], expected.norm())
    assert set(logged) == {"centre/a"} and not distilled.loss.centre.requires_grad
    assert not list(nn.Module.parameters(distilled.loss)), "the centre is a buffer"


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5])
def test_a_momentum_that_never_moves_it_is_refused(momentum):
    with pytest.raises(ValueError, match=r"UpdateCentre\.momentum"):
        UpdateCentre(momentum)
