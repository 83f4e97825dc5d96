import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import noise, paired

from cl.losses.self_distillation import SelfDistillation
from cl.types import Contrast

SIZES = {"b": st.integers(1, 6), "d": st.integers(2, 5), "seed": st.integers(0, 1000)}


def softmax(scores):
    total = sum(math.exp(score - max(scores)) for score in scores)
    return [math.exp(score - max(scores)) / total for score in scores]


@given(**SIZES, teacher=st.sampled_from([0.04, 0.07]))
def test_is_the_cross_entropy_in_a_loop(b, d, seed, teacher):
    q, k, centre = noise(b, d, seed), noise(b, d, seed + 1), noise(1, d, seed + 2)[0]
    loss = SelfDistillation(d, student=0.1, teacher=teacher).double()
    loss.centre.copy_(centre)
    total = 0.0
    for i in range(b):
        target = softmax([(k[i, j] - centre[j]).item() / teacher for j in range(d)])
        scores = [q[i, j].item() / 0.1 for j in range(d)]
        lse = max(scores) + math.log(sum(math.exp(score - max(scores)) for score in scores))
        total -= sum(t * (score - lse) for t, score in zip(target, scores, strict=True))
    assert loss(paired(q, k)).item() == pytest.approx(total / b, rel=1e-9, abs=1e-12)


def test_gradcheck():
    loss, (q, k) = SelfDistillation(4).double(), (noise(3, 4, seed).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda q: loss(paired(q, k.detach())), (q,))


@given(st.integers(1, 6), st.integers(2, 9))
def test_collapsed_onto_the_centre_it_is_log_of_the_prototypes(b, d):
    """Equal scores, as where all is one point between the prototypes; the gradient is then nothing."""
    loss, point = SelfDistillation(d), torch.full((b, d), 0.3, requires_grad=True)
    loss.centre.fill_(0.3)
    value = loss(paired(point, point.detach()))
    assert value.item() == pytest.approx(math.log(d), rel=1e-6)
    value.backward()
    assert point.grad.abs().max() < 1e-6


def test_without_a_centre_one_prototype_for_all_is_the_best_there_is():
    """What the centre prevents: with it the same point is as bad as chance."""
    one = torch.nn.functional.one_hot(torch.zeros(4, dtype=torch.int64), 5).float()
    loss = SelfDistillation(5)
    assert loss(paired(one, one)).item() < 1e-3
    loss.centre.copy_(one[0])
    assert loss(paired(one, one)).item() > math.log(5)


@pytest.mark.parametrize("teacher", [0.0, 0.1, 0.2, float("nan")])
def test_a_teacher_that_does_not_sharpen_is_refused(teacher):
    with pytest.raises(ValueError, match=r"SelfDistillation\.teacher"):
        SelfDistillation(4, student=0.1, teacher=teacher)


def test_without_pairs_it_says_what_gives_them():
    with pytest.raises(ValueError, match="PositivesOnly"):
        SelfDistillation(4)(Contrast(torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.int64)))
