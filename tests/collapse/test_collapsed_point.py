"""What every loss says where all rows are one point, whatever the provider; its gradient there; and what a step does
near it. Where keys are rows of the encoder's a collapsed point is a stationary one, of losses with negatives too: what
tells them apart is whether they leave it. Class vectors are elsewhere, and prototypes' scores may differ: those pull.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import block, rows

from cl.losses.alignment import Alignment
from cl.losses.barlow_twins import BarlowTwins
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.self_distillation import SelfDistillation
from cl.losses.sigmoid import Sigmoid
from cl.losses.vicreg import VICReg
from cl.negatives.class_vectors import ClassVectors
from cl.negatives.in_batch import InBatch
from cl.negatives.neighbours import Neighbours
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.types import Embeddings
from cl.views.groups import stable_hash

D, TEMPERATURE = 4, 0.3


def softplus(x):
    return math.log1p(math.exp(x))


# Of a row with so many candidates, of which so many are positives.
SOFTMAX = {
    "InfoNCE": (lambda: InfoNCE(TEMPERATURE), lambda candidates, positives: math.log(candidates)),
    "InfoNCE, smoothed": (
        lambda: InfoNCE(TEMPERATURE, smoothing=0.3),
        lambda candidates, positives: math.log(candidates),
    ),
    "DecoupledInfoNCE": (
        lambda: DecoupledInfoNCE(TEMPERATURE),
        lambda candidates, positives: math.log(candidates - positives),
    ),
    "HardNegativeInfoNCE": (
        lambda: HardNegativeInfoNCE(TEMPERATURE, debias=0.0),
        lambda candidates, positives: math.log(candidates),
    ),
    "HardNegativeInfoNCE, debiased": (
        lambda: HardNegativeInfoNCE(TEMPERATURE),
        lambda candidates, positives: math.log(candidates),
    ),
    "Sigmoid": (
        lambda: Sigmoid(TEMPERATURE, bias=-1.0),
        lambda candidates, positives: (
            positives * softplus(1 - 1 / TEMPERATURE) + (candidates - positives) * softplus(1 / TEMPERATURE - 1)
        ),
    ),
}
PROVIDERS = {
    "InBatch, all rows": (lambda: InBatch(True), lambda b, k: 2 * b - 1),
    "InBatch, other view": (lambda: InBatch(False), lambda b, k: b),
    "Queue(PositivesOnly)": (lambda: Queue(PositivesOnly(), 8, D), lambda b, k: k + 1),
    "Queue(InBatch)": (lambda: Queue(InBatch(False), 8, D), lambda b, k: b + k),
    "Neighbours": (lambda: Neighbours(8, D), lambda b, k: b),
}


def embeddings(q, keys=None):
    """Two views of samples, view by view."""
    b = len(q) // 2
    ids = torch.cat([block(range(b), view) for view in (0, 1)])
    return Embeddings(q, ids, (0, 1)) if keys is None else Embeddings(q, ids, (0, 1), keys, ids, (0, 1))


def filled(name, keys, point):
    provider = PROVIDERS[name][0]()
    if "Queue" in name or name == "Neighbours":
        provider.ring.enqueue(point.expand(keys, D), block(range(1000, 1000 + keys), 0, first=1000))
    return provider


def total(loss, contrasts):
    return sum(loss(contrast) for contrast in contrasts) / len(contrasts)


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("loss", SOFTMAX)
@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 99))
def test_the_value_is_that_of_the_keys_that_are_met_and_the_gradient_nothing(name, loss, b, keys, seed):
    point = rows(1, D, seed)
    q = point.repeat(2 * b, 1).requires_grad_()
    momentum = name != "InBatch, all rows"
    found = embeddings(q, q.detach() if momentum else None)
    make, value = SOFTMAX[loss]
    came = total(make(), filled(name, keys, point)(found))
    candidates = PROVIDERS[name][1](b, keys)
    assert came.item() == pytest.approx(value(candidates, 1), rel=1e-5, abs=1e-6)
    came.backward()
    # Along the sphere: what is across it changes a row's length alone.
    along = q.grad - (q.grad * q.detach()).sum(dim=1, keepdim=True) * q.detach()
    assert along.abs().max() < 1e-5


@pytest.mark.parametrize("keys", [None, 0, 5], ids=["in batch", "of a copy", "and a queue's"])
@pytest.mark.parametrize("loss", [each for each in SOFTMAX if "Hard" not in each])  # which take one positive
@given(
    st.lists(st.integers(0, 2), min_size=2, max_size=8).filter(lambda groups: len(set(groups)) > 1), st.integers(0, 99)
)
def test_with_several_positives_it_is_the_mean_over_rows(loss, keys, groups, seed):
    b, point = len(groups), rows(1, D, seed)
    q = point.repeat(2 * b, 1).requires_grad_()
    ids = torch.cat([block(groups, view) for view in (0, 1)])
    k = None if keys is None else q.detach()
    provider = Queue(InBatch(True), 8, D) if keys else InBatch(True)
    if keys:
        provider.ring.enqueue(point.expand(keys, D), block(range(1000, 1000 + keys), 0, first=1000))
    found = Embeddings(q, ids, (0, 1)) if k is None else Embeddings(q, ids, (0, 1), k, ids, (0, 1))
    make, value = SOFTMAX[loss]
    came = total(make(), provider(found))
    each = [value(2 * b - 1 + (keys or 0), 2 * groups.count(group) - 1) for group in groups]
    assert came.item() == pytest.approx(sum(each) / b, rel=1e-5, abs=1e-6)
    came.backward()
    assert (q.grad - (q.grad * q.detach()).sum(dim=1, keepdim=True) * q.detach()).abs().max() < 1e-5


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 99))
def test_against_class_vectors_the_point_is_left_by_labels(b, classes, seed):
    """They are no rows of the encoder's, so they are elsewhere: cross-entropy, whose gradient is softmax - label."""
    torch.manual_seed(seed)
    provider = ClassVectors(classes, D)
    q = rows(1, D, seed).repeat(2 * b, 1).requires_grad_()
    labels = torch.arange(2 * b) % b % classes
    groups = [stable_hash("label", str(label)) for label in labels[:b].tolist()]
    ids = torch.cat([block(groups, view) for view in (0, 1)])
    came = total(InfoNCE(TEMPERATURE), provider(Embeddings(q, ids, (0, 1))))
    vectors = F.normalize(provider.vectors.weight.detach(), dim=1)
    logits = q.detach() @ vectors.T / TEMPERATURE
    assert came.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    came.backward()
    wanted = (logits.softmax(dim=1) - F.one_hot(labels, classes)) @ vectors / TEMPERATURE / (2 * b)
    torch.testing.assert_close(q.grad, wanted, rtol=1e-4, atol=1e-6)
    assert (q.grad[0] - q.grad[1]).norm() > 1e-3, "two labels are drawn to two places"


OTHERS = {
    "Alignment": (lambda: Alignment(), 0.0),
    "VICReg": (lambda: VICReg(), 25 * (1 - 0.01)),
    "BarlowTwins": (lambda: BarlowTwins(), float(D)),
}


@pytest.mark.parametrize("loss", OTHERS)
@given(st.integers(2, 6), st.integers(0, 99))
def test_losses_of_pairs_have_their_own_value_there(loss, b, seed):
    q = rows(1, D, seed).repeat(2 * b, 1).requires_grad_()
    make, value = OTHERS[loss]
    came = total(make(), PositivesOnly()(embeddings(q)))
    assert came.item() == pytest.approx(value, rel=1e-5, abs=1e-5)
    came.backward()
    assert q.grad.abs().max() < 1e-3, "rounding, times 25 over the deviation's floor of 0.01"


@given(st.integers(2, 6), st.integers(2, 9), st.floats(0, 1), st.integers(0, 99))
def test_self_distillation_says_log_of_the_prototypes_where_their_scores_are_alike(b, d, unlike, seed):
    """The centre at the point, the target is uniform: a cross-entropy with that, whose gradient makes scores alike."""
    point = 0.2 + unlike * rows(1, d, seed)
    q = point.repeat(2 * b, 1).requires_grad_()
    loss = SelfDistillation(d)
    loss.centre.copy_(point[0])
    ids = torch.cat([block(range(b), view) for view in (0, 1)])
    came = total(loss, PositivesOnly()(Embeddings(q, ids, (0, 1), q.detach(), ids, (0, 1))))
    scores = point[0] / loss.student
    assert came.item() == pytest.approx(float(scores.logsumexp(dim=0) - scores.mean()), rel=1e-4)
    assert came.item() >= math.log(d) - 1e-4 and (unlike > 0 or came.item() == pytest.approx(math.log(d), rel=1e-5))
    came.backward()
    wanted = (scores.softmax(dim=0) - 1 / d) / loss.student / (2 * b)
    torch.testing.assert_close(q.grad, wanted.expand(2 * b, d), rtol=1e-3, atol=1e-5)


def spread_of_means(z):
    """How far apart the means of the positive pairs lie."""
    return (F.normalize(z, dim=1).view(2, -1, D).mean(dim=0)).var(dim=0).sum()


def after_a_step(loss, provider, seed, rate=0.02):
    """Rows near one point, and what a gradient step on the sphere makes of them."""
    generator = torch.Generator().manual_seed(seed)
    near = rows(1, D, seed) + 0.01 * torch.randn(12, D, generator=generator)
    z = F.normalize(near, dim=1).requires_grad_()
    total(loss, provider(embeddings(F.normalize(z, dim=1)))).backward()
    return z.detach(), z.detach() - rate * z.grad


@pytest.mark.parametrize(
    "loss", [InfoNCE(TEMPERATURE), DecoupledInfoNCE(TEMPERATURE), HardNegativeInfoNCE(TEMPERATURE)], ids=type
)
@given(st.integers(0, 10**6))
def test_a_step_near_collapse_spreads_the_means_of_pairs_where_there_are_negatives(loss, seed):
    before, after = after_a_step(loss, InBatch(True), seed)
    assert spread_of_means(after) > spread_of_means(before)


@given(st.integers(0, 10**6))
def test_and_never_does_where_there_are_none(seed):
    before, after = after_a_step(Alignment(), PositivesOnly(), seed)
    assert spread_of_means(after) <= spread_of_means(before) * (1 + 1e-4)
