import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import embeddings, output, pictures, tower
from torch import nn

from cl.components import PostStepHook, Step
from cl.encoders.momentum import Momentum
from cl.encoders.siamese import siamese
from cl.hooks.enqueue import Enqueue
from cl.losses.info_nce import InfoNCE
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term

STEP = Step(0, 1)


def moco(size=8, stale_same="ignored"):
    torch.manual_seed(0)
    encoder = Momentum(siamese(tower()), query_views=(0,), key_views=(1,))
    term = Term(Queue(PositivesOnly(), size=size, dim=4, stale_same=stale_same), InfoNCE(0.2))
    return Objective(encoder, {"moco": term})


@given(st.integers(1, 5), st.integers(1, 12), st.integers(1, 4))
def test_a_key_is_enqueued_after_it_was_contrasted(b, size, steps):
    built = moco(size, stale_same="negative")  # nothing but the order keeps a row from its own key
    queue = built.terms["moco"].provider
    for index in range(steps):
        views = pictures(b, seed=index, first=100 * index)
        found = built(views)
        (contrast,) = queue(found.embeddings["z"])
        assert len(contrast.pool) == min(index * b, size)
        own = set(views.sample.tolist())
        assert not own & set(contrast.pool_ids[:, 1].tolist())
        assert not (contrast.pool[None] == contrast.paired[:, None]).all(dim=2).any()
        logged = Enqueue()(built, found, Step(index, steps))
        assert logged["queue_fill/moco"].item() == min((index + 1) * b, size)
        assert own & set(queue.ring.ids[: int(queue.ring.fill), 1].tolist())


def test_the_queue_is_a_leaf_without_graph():
    built = moco()
    found = built(pictures(3))
    Enqueue()(built, found, STEP)
    queue = built.terms["moco"].provider
    assert torch.equal(queue.ring.embeddings[:3], found.embeddings["z"].k) and not queue.ring.embeddings.requires_grad
    built(pictures(3, first=50)).loss.backward()
    assert queue.ring.embeddings.grad is None


@given(st.integers(1, 3), st.sampled_from([None, (0,), (1,), (1, 0)]))
def test_which_views_are_kept_and_in_which_order(b, views):
    queue = Queue(InBatch(True), size=20, dim=4)
    built = Objective(siamese(tower()), {"supcon": Term(queue, InfoNCE(0.2))})
    found = embeddings(b, (0, 1), (0, 1))
    Enqueue(views)(built, output(z=found), STEP)
    kept = (0, 1) if views is None else views
    expected = torch.cat([found.key_of(view)[0] for view in kept])
    assert torch.equal(queue.ring.embeddings[: int(queue.ring.fill)], expected)
    assert queue.ring.ids[: int(queue.ring.fill), 2].tolist() == [view for view in kept for _ in range(b)]


def test_every_queue_gets_its_own_terms_keys():
    two = Objective(
        siamese(tower()),
        {
            "a": Term(Queue(PositivesOnly(), size=4, dim=4), InfoNCE(0.2)),
            "b": Term(Queue(PositivesOnly(), size=4, dim=3), InfoNCE(0.2), embedding="y"),
            "c": Term(InBatch(True), InfoNCE(0.2)),
        },
    )
    z, y = embeddings(2, (0,), (1,)), embeddings(2, (0,), (1,), d=3)
    logged = Enqueue()(two, output(z=z, y=y), STEP)
    assert logged.keys() == {"queue_fill/a", "queue_fill/b"}
    assert torch.equal(two.terms["a"].provider.ring.embeddings[:2], z.k)
    assert torch.equal(two.terms["b"].provider.ring.embeddings[:2], y.k)


def test_is_a_hook_without_state():
    assert isinstance(Enqueue(), PostStepHook) and Enqueue().needs == {"queue"} and Enqueue().state_dict() == {}
    assert not isinstance(Enqueue(), nn.Module)


def test_a_logged_fill_is_a_value_of_its_step():
    built = moco()
    first = Enqueue()(built, built(pictures(3)), STEP)["queue_fill/moco"]
    Enqueue()(built, built(pictures(3, first=50)), STEP)
    assert first.item() == pytest.approx(3)
