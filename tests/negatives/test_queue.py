from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from oracle import matrices, relation
from tiny import block, embeddings, rows

from cl.components import NegativeProvider
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue

RULE = st.sampled_from(["positive", "ignored", "negative"])


class QueueIsADeque(RuleBasedStateMachine):
    """Any size, any batch, saved and loaded at any point: the newest `size` keys, in the order they came."""

    @initialize(size=st.integers(1, 7))
    def start(self, size):
        self.queue = Queue(PositivesOnly(), size=size, dim=2)
        self.model = deque(maxlen=size)
        self.made = 0

    @rule(n=st.integers(0, 20))
    def enqueue(self, n):
        ids = torch.arange(self.made, self.made + n)[:, None] * torch.tensor([1, 10, 100])
        keys = torch.stack([ids[:, 0].float(), -ids[:, 0].float()], dim=1)
        self.queue.ring.enqueue(keys, ids)
        self.model.extend(zip(keys.tolist(), ids.tolist(), strict=True))
        self.made += n

    @rule()
    def save_and_load(self):
        saved = {name: value.clone() for name, value in self.queue.state_dict().items()}
        self.queue = Queue(PositivesOnly(), size=self.queue.ring.size, dim=2)
        self.queue.load_state_dict(saved)

    @precondition(lambda self: self.made)
    @rule(seed=st.integers(0, 9))
    def reading_changes_nothing(self, seed):
        before = {name: value.clone() for name, value in self.queue.state_dict().items()}
        self.queue(embeddings(2, (0,), (1,), d=2, seed=seed))
        assert all(torch.equal(value, before[name]) for name, value in self.queue.state_dict().items())

    @invariant()
    def holds_the_newest_keys_in_order(self):
        fill, position = self.queue.ring.fill.item(), self.queue.ring.position.item()
        assert fill == len(self.model)
        oldest_first = [(position - fill + i) % self.queue.ring.size for i in range(fill)]
        keys, ids = self.queue.ring.embeddings[oldest_first].tolist(), self.queue.ring.ids[oldest_first].tolist()
        assert list(zip(keys, ids, strict=True)) == list(self.model)

    @invariant()
    def hands_on_what_is_filled(self):
        (contrast,) = self.queue(embeddings(1, (0,), (1,), d=2))
        handed = zip(contrast.pool.tolist(), contrast.pool_ids.tolist(), strict=True)
        assert sorted(handed) == sorted(self.model)
        assert contrast.stale.all() and len(contrast.stale) == len(self.model)


QueueIsADeque.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestQueueIsADeque = QueueIsADeque.TestCase


def test_is_a_provider():
    queue = Queue(PositivesOnly(), size=2, dim=2)
    assert isinstance(queue, NegativeProvider)
    assert queue.provides == {"keys", "paired", "queue", "negatives"} and queue.needs == {"momentum"}
    assert Queue(InBatch(True), 2, 2, trained_keys=True).needs == frozenset()


@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 3), RULE)
def test_moco_has_its_own_key_and_the_queue(b, fill, overlap, rule):
    """The last `overlap` samples of the batch have keys of an earlier epoch in the queue."""
    queue = Queue(PositivesOnly(), size=6, dim=4, stale_same=rule)
    queue.ring.enqueue(rows(fill, 4, seed=9), block(range(b - overlap, b - overlap + fill), 1, first=b - overlap))
    found = embeddings(b, (0,), (1,))
    (contrast,) = queue(found)
    assert torch.equal(contrast.paired, found.k) and torch.equal(contrast.q, found.q)
    assert contrast.stale_same == rule and contrast.stale.tolist() == [True] * fill
    assert torch.equal(contrast.pool, queue.ring.embeddings[:fill]) and torch.equal(
        contrast.pool_ids, queue.ring.ids[:fill]
    )
    met, positive = matrices(contrast)
    for i, query in enumerate(contrast.q_ids.tolist()):
        for j, key in enumerate(contrast.pool_ids.tolist()):
            expected = relation(query, key, True, rule)
            assert (bool(met[i, j]), bool(positive[i, j])) == (expected != "never met", expected == "positive")


@given(st.integers(1, 4), st.integers(0, 6))
def test_supcon_has_the_batch_and_the_queue(b, fill):
    queue = Queue(InBatch(True), size=6, dim=4)
    group = [0] * b
    queue.ring.enqueue(rows(fill, 4, seed=9), block([0] * fill, 1, first=50))
    found = embeddings(b, (0, 1), (0, 1), group=group)
    (contrast,) = queue(found)
    assert contrast.stale.tolist() == [False] * (2 * b) + [True] * fill
    assert torch.equal(contrast.pool, torch.cat([found.k, queue.ring.embeddings[:fill]]))
    assert torch.equal(contrast.pool_ids, torch.cat([found.k_ids, queue.ring.ids[:fill]]))
    assert contrast.positives.tolist() == [2 * b - 1 + fill] * (2 * b)
    assert contrast.paired is None and contrast.divisor is None and not contrast.pool_is_q


@pytest.mark.parametrize("inner", [PositivesOnly(), InBatch(True)])
def test_a_gradient_does_not_need_what_the_queue_held(inner):
    queue, found = Queue(inner, size=3, dim=4), embeddings(2, (0, 1), (0, 1))
    queue.ring.enqueue(rows(3, 4), block(range(3), 0, first=9))
    q = found.q.requires_grad_()

    def loss():
        return torch.stack([InfoNCE(0.2)(contrast) for contrast in queue(found)]).sum()

    (expected,) = torch.autograd.grad(loss(), q)
    value = loss()
    queue.ring.enqueue(rows(3, 4, seed=5), block(range(3), 0, first=20))
    (gradient,) = torch.autograd.grad(value, q)
    assert torch.equal(gradient, expected)


def test_no_gradient_reaches_the_queue():
    queue = Queue(PositivesOnly(), size=3, dim=4)
    queue.ring.enqueue(rows(3, 4).requires_grad_() * 2, block(range(3), 0, first=9))
    (contrast,) = queue(embeddings(2, (0,), (1,)))
    assert not queue.ring.embeddings.requires_grad and not contrast.pool.requires_grad
    assert not list(queue.parameters())


def test_both_directions_are_two_contrasts_with_the_queue_each():
    queue, found = Queue(InBatch(False), size=3, dim=4), embeddings(2, (0, 1))
    queue.ring.enqueue(rows(3, 4, seed=9), block(range(3), 0, first=9))
    first, second = queue(found)
    for contrast, own, other in ((first, 0, 1), (second, 1, 0)):
        assert torch.equal(contrast.q, found.q_of(own)[0]) and torch.equal(contrast.q_ids, found.q_of(own)[1])
        assert torch.equal(contrast.pool, torch.cat([found.q_of(other)[0], queue.ring.embeddings]))
        assert contrast.stale.tolist() == [False] * 2 + [True] * 3 and not contrast.both_ways


def test_a_queue_of_a_queue_is_refused():
    with pytest.raises(ValueError, match="one queue holds all keys"):
        Queue(Queue(PositivesOnly(), size=3, dim=4), size=3, dim=4)


def test_size_must_be_positive():
    with pytest.raises(ValueError, match=r"Queue\.size"):
        Queue(PositivesOnly(), size=0, dim=4)


@pytest.mark.usefixtures("without_shape_checks")
def test_stale_same_is_one_of_three_things():
    with pytest.raises(ValueError, match=r"Queue\.stale_same must be one of positive, ignored, negative, got 'skip'"):
        Queue(PositivesOnly(), size=3, dim=4, stale_same="skip")
