import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import output, pictures, tower

from cl.components import PostStepHook, Step
from cl.encoders.mlp import MLP
from cl.encoders.momentum import Momentum
from cl.encoders.norms import BatchNorm
from cl.encoders.siamese import siamese
from cl.hooks.update_momentum import UpdateMomentum
from cl.losses.alignment import Alignment
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Objective, Term
from cl.optim.schedules import Cosine

OUTPUT = output()


def objective(seed=0, norm=None):
    """An online encoder that has moved away from its copy."""
    torch.manual_seed(seed)
    encoder = Momentum(siamese(tower(norm=norm), joint=False), predictors={"z": MLP((4, 4))})
    with torch.no_grad():
        for parameter in encoder.online.parameters():
            parameter.add_(torch.randn_like(parameter))
    return Objective(encoder, {"a": Term(PositivesOnly(), Alignment())})


def weights(encoder):
    return torch.cat([p.detach().double().flatten() for p in encoder.parameters()])


@given(st.floats(0, 1), st.integers(0, 6), st.integers(0, 100))
def test_constant_momentum_has_a_closed_form(momentum, steps, seed):
    """While the online network stands still: target_n = online + m^n (target_0 - online)."""
    built = objective(seed)
    start, online = weights(built.encoder.target), weights(built.encoder.online)
    hook = UpdateMomentum(momentum)
    for index in range(steps):
        assert hook(built, OUTPUT, Step(index, steps))["momentum"].item() == pytest.approx(momentum)
    expected = online + momentum**steps * (start - online)
    torch.testing.assert_close(weights(built.encoder.target), expected, rtol=1e-5, atol=1e-6)


@given(st.floats(0, 1), st.integers(1, 6), st.integers(0, 100))
def test_cosine_momentum_is_byols(base, steps, seed):
    """m_t = 1 - (1 - base) (cos(pi t / T) + 1) / 2 (Grill et al. 2020, section 3.3), while the online network moves."""
    built = objective(seed)
    hook = UpdateMomentum(Cosine(base, 1.0))
    expected = weights(built.encoder.target)
    for t in range(steps):
        with torch.no_grad():
            for parameter in built.encoder.online.parameters():
                parameter.mul_(0.9)
        momentum = 1 - (1 - base) * (math.cos(math.pi * t / steps) + 1) / 2
        expected = momentum * expected + (1 - momentum) * weights(built.encoder.online)
        hook(built, OUTPUT, Step(t, steps))
    torch.testing.assert_close(weights(built.encoder.target), expected, rtol=1e-4, atol=1e-6)


def test_the_online_network_and_the_predictor_stay():
    built = objective()
    before = copy.deepcopy((built.encoder.online.state_dict(), built.encoder.predictors.state_dict()))
    UpdateMomentum(0.5)(built, OUTPUT, Step(0, 1))
    after = (built.encoder.online.state_dict(), built.encoder.predictors.state_dict())
    assert all(torch.equal(b[name], a[name]) for b, a in zip(before, after, strict=True) for name in b)
    assert not any(p.requires_grad or p.grad is not None for p in built.encoder.target.parameters())


def test_the_copy_follows_bfloat16_weights_in_float32():
    """In bfloat16 a momentum of 0.999 would stand still."""
    built = objective()
    built.encoder.online.to(torch.bfloat16)
    before = weights(built.encoder.target)
    for index in range(20):
        UpdateMomentum(0.999)(built, OUTPUT, Step(index, 20))
    expected = weights(built.encoder.online) + 0.999**20 * (before - weights(built.encoder.online))
    torch.testing.assert_close(weights(built.encoder.target), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["own", "copy", "average"])
def test_buffers(policy):
    built = objective(norm=BatchNorm).train()
    views = pictures(6)
    built.encoder.online(views)  # two batches for the online network, none for its copy
    online, target = (side.towers["image"].trunk[2] for side in (built.encoder.online, built.encoder.target))
    before, theirs = target.running_mean.clone(), online.running_mean.clone()
    assert not torch.allclose(before, theirs)
    UpdateMomentum(0.75, buffers=policy)(built, OUTPUT, Step(0, 1))
    expected = {"own": before, "copy": theirs, "average": 0.75 * before + 0.25 * theirs}[policy]
    torch.testing.assert_close(target.running_mean, expected)
    assert torch.equal(online.running_mean, theirs)
    assert target.num_batches_tracked.item() == (2 if policy == "copy" else 0)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, math.nan, Cosine(0.5, 1.5)])
def test_momentum_must_lie_between_0_and_1(momentum):
    with pytest.raises(ValueError, match=r"UpdateMomentum\.momentum"):
        UpdateMomentum(momentum)


@pytest.mark.usefixtures("without_shape_checks")
def test_buffers_are_treated_in_one_of_three_ways():
    with pytest.raises(ValueError, match=r"UpdateMomentum\.buffers must be one of own, copy, average, got 'averaged'"):
        UpdateMomentum(0.9, buffers="averaged")


def test_is_a_hook_without_state():
    hook = UpdateMomentum(0.9)
    assert isinstance(hook, PostStepHook) and hook.needs == {"momentum"} and hook.state_dict() == {}
    hook.load_state_dict({})
