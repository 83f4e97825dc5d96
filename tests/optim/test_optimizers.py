"""The optimizers' first two steps against their papers' formulas."""

import math

import pytest
import torch
from torch import nn

from cl.optim.adamw import AdamW
from cl.optim.lars import LARS
from cl.optim.optimizer import Optimizer
from cl.optim.rules import Rule
from cl.optim.sgd import SGD

LR, DECAY = 0.1, 0.02


def steps(description, n=2):
    """A weight and a bias under constant gradients, after n steps, with where they began and the gradients."""
    assert isinstance(description, Optimizer) and description.lr == LR
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    start = [p.detach().clone() for p in net.parameters()]
    gradients = [torch.randn_like(p) for p in start]
    optimizer = description.build(net)
    for _ in range(n):
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [p.detach() for p in net.parameters()], start, gradients


def test_sgd():
    ends, starts, gradients = steps(SGD(LR, DECAY, momentum=0.9))
    for end, start, gradient, decay in zip(ends, starts, gradients, (DECAY, 0.0), strict=True):
        w, velocity = start, torch.zeros_like(start)
        for _ in range(2):
            velocity = 0.9 * velocity + gradient + decay * w
            w = w - LR * velocity
        torch.testing.assert_close(end, w)


def test_adamw():
    ends, starts, gradients = steps(AdamW(LR, DECAY, betas=(0.9, 0.98), eps=1e-6))
    for end, start, gradient, decay in zip(ends, starts, gradients, (DECAY, 0.0), strict=True):
        w, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
        for t in (1, 2):
            first, second = 0.9 * first + 0.1 * gradient, 0.98 * second + 0.02 * gradient**2
            w = w * (1 - LR * decay)
            w = w - LR * (first / (1 - 0.9**t)) / ((second / (1 - 0.98**t)).sqrt() + 1e-6)
        torch.testing.assert_close(end, w)


def test_lars_adapts_decayed_tensors_only():
    ends, starts, gradients = steps(LARS(LR, DECAY, momentum=0.9, trust=1e-3))
    for end, start, gradient, decay in zip(ends, starts, gradients, (DECAY, 0.0), strict=True):
        w, velocity = start, torch.zeros_like(start)
        for _ in range(2):
            update = gradient + decay * w
            if decay:
                update = update * 1e-3 * w.norm() / (gradient.norm() + decay * w.norm())
            velocity = 0.9 * velocity + update
            w = w - LR * velocity
        torch.testing.assert_close(end, w, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("description", [SGD, AdamW, LARS])
def test_rules_reach_torchs_optimizer(description):
    optimizer = description(lr=LR, weight_decay=DECAY, rules=[Rule("bias", weight_decay=0.5)]).build(nn.Linear(3, 2))
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [DECAY, 0.5]
    assert {group["lr"] for group in optimizer.param_groups} == {LR}


BAD = [
    lambda: SGD(-0.1),
    lambda: SGD(0.1, weight_decay=-1.0),
    lambda: AdamW(math.nan),
    lambda: AdamW(0.1, weight_decay=math.nan),
    lambda: LARS(math.nan),
    lambda: LARS(0.1, trust=-1.0),
    lambda: SGD(0.1, rules=[Rule(".*", rate=-1.0)]),
    lambda: SGD(0.1, rules=[Rule(".*", weight_decay=-1.0)]),
]


@pytest.mark.parametrize("description", BAD)
def test_what_would_climb_or_grow_is_refused(description):
    with pytest.raises(ValueError, match=r"(weight_decay|trust) must be (at least|above) 0"):
        description().build(nn.Linear(3, 2))
