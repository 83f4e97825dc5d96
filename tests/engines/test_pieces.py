"""A batch in pieces is the whole batch: values, gradients, running statistics, random numbers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SIDE, pictures, tower
from torch import nn

from cl.encoders.dual import dual
from cl.encoders.momentum import Momentum
from cl.encoders.norms import BatchNorm
from cl.encoders.predict import Predict
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.engines.local import LocalEngine
from cl.losses.alignment import Alignment
from cl.losses.barlow_twins import BarlowTwins
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.self_distillation import SelfDistillation
from cl.losses.sigmoid import Sigmoid
from cl.losses.temperature import LearnedTemperature
from cl.losses.vicreg import VICReg
from cl.negatives.class_vectors import ClassVectors
from cl.negatives.in_batch import InBatch
from cl.negatives.neighbours import Neighbours
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD
from cl.types import Pending

CPU = torch.device("cpu")
B = 7


def queue():
    filled = Queue(PositivesOnly(), size=5, dim=4)
    filled.ring.enqueue(torch.randn(5, 4), torch.arange(15).view(5, 3) + 100)
    return filled


def neighbours():
    filled = Neighbours(size=5, dim=4)
    filled.ring.enqueue(torch.nn.functional.normalize(torch.randn(5, 4), dim=1), torch.arange(15).view(5, 3) + 100)
    return filled


def learned():
    return InfoNCE(LearnedTemperature(0.2))


KINDS = {
    "simclr": lambda: Objective(siamese(tower()), {"a": Term(InBatch(True), learned())}),
    "simclr, views apart": lambda: Objective(siamese(tower(), joint=False), {"a": Term(InBatch(True), learned())}),
    "clip": lambda: Objective(dual(tower(), tower()), {"a": Term(InBatch(False), learned())}),
    "siglip": lambda: Objective(dual(tower(), tower()), {"a": Term(InBatch(False), Sigmoid(LearnedTemperature(0.1)))}),
    "moco": lambda: Objective(Momentum(siamese(tower())), {"a": Term(queue(), learned())}),
    "moco, one way": lambda: Objective(
        Momentum(siamese(tower()), query_views=(0,), key_views=(1,), shuffle_keys=True), {"a": Term(queue(), learned())}
    ),
    "supcon with a queue": lambda: Objective(
        Momentum(siamese(tower())), {"a": Term(Queue(InBatch(True), size=5, dim=4), learned())}
    ),
    "moco, decoupled": lambda: Objective(
        Momentum(siamese(tower())), {"a": Term(queue(), DecoupledInfoNCE(LearnedTemperature(0.2)))}
    ),
    "hard negatives": lambda: Objective(
        siamese(tower()), {"a": Term(InBatch(True), HardNegativeInfoNCE(LearnedTemperature(0.2)))}
    ),
    "vicreg": lambda: Objective(siamese(tower(), unit_norm=False), {"a": Term(PositivesOnly(), VICReg(), weight=0.1)}),
    "byol": lambda: Objective(
        Momentum(siamese(tower()), {"z": nn.Linear(4, 4)}), {"a": Term(PositivesOnly(), Alignment())}
    ),
    "barlow twins": lambda: Objective(
        siamese(tower(), unit_norm=False), {"a": Term(PositivesOnly(), BarlowTwins(), weight=0.1)}
    ),
    "simsiam": lambda: Objective(
        Predict(siamese(tower()), {"z": nn.Linear(4, 4)}), {"a": Term(PositivesOnly(), Alignment())}
    ),
    "nnclr": lambda: Objective(Predict(siamese(tower()), {"z": nn.Linear(4, 4)}), {"a": Term(neighbours(), learned())}),
    "dino": lambda: Objective(
        Momentum(siamese(tower(), unit_norm=False)), {"a": Term(PositivesOnly(), SelfDistillation(4, student=1.0))}
    ),
    "cross-entropy": lambda: Objective(siamese(tower()), {"a": Term(ClassVectors(3, 4), learned())}),
    "two terms": lambda: Objective(
        siamese(tower()), {"a": Term(InBatch(True), learned()), "b": Term(PositivesOnly(), Alignment())}
    ),
}


def started(objective, piece, precision=torch.float32, accumulate=1):
    engine = LocalEngine(piece=piece, accumulate=accumulate)
    engine.start(objective, SGD(1.0, momentum=0.0), Constant(), CPU, precision)
    return engine


def measured(kind, piece, views, precision=torch.float32):
    """Loss, and every parameter's gradient, of one backward pass."""
    torch.manual_seed(0)
    objective = KINDS[kind]()
    engine = started(objective, piece, precision)
    output = engine(views)
    engine.backward(output)
    return output, {name: p.grad for name, p in objective.named_parameters() if p.requires_grad}


def alike(found, expected, tolerance, least=1e-3):
    """Each parameter's, relative to its own length, but at least to a share of all; some are 0 but for rounding."""
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        # A gradient that is zero but for rounding, as that of a bias that the loss subtracts, may be any such number.
        rounding = 1e-7 * float(norm)
        allowed = tolerance * max(float(gradient.norm()), least * float(norm))
        assert (found[name] - gradient).norm() <= (rounding if gradient.norm() < rounding else allowed), name


@pytest.mark.parametrize("kind", KINDS)
@given(piece=st.integers(1, B + 1))
def test_pieces_are_the_whole(kind, piece):
    views = pictures(B)
    whole, expected = measured(kind, None, views)
    parts, found = measured(kind, piece, views)
    torch.testing.assert_close(parts.loss, whole.loss)
    alike(found, expected, 1e-5)
    for name, embeddings in whole.embeddings.items():
        mine = parts.embeddings[name]
        assert torch.equal(mine.q_ids, embeddings.q_ids) and torch.equal(mine.key_ids, embeddings.key_ids)
        torch.testing.assert_close(mine.keys, embeddings.keys)


@pytest.mark.parametrize("kind", KINDS)
def test_4096_samples_in_pieces_of_64_are_the_whole(kind):
    views = pictures(4096)
    (whole, expected), (parts, found) = (measured(kind, piece, views) for piece in (None, 64))
    torch.testing.assert_close(parts.loss, whole.loss)
    alike(found, expected, 1e-5, least=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_under_autocast_are_the_whole(kind):
    views = pictures(B)
    (whole, expected), (parts, found) = (measured(kind, piece, views, torch.bfloat16) for piece in (None, 3))
    torch.testing.assert_close(parts.loss, whole.loss, rtol=0.01, atol=0.01)
    alike(found, expected, 0.02, least=0.01)


@pytest.mark.parametrize("kind", KINDS)
@given(piece=st.integers(1, B + 1), accumulate=st.integers(2, 3))
def test_accumulated_batches_in_pieces_are_the_mean_of_whole_ones(kind, piece, accumulate):
    batches = [pictures(B, seed=seed, first=10 * seed) for seed in range(accumulate)]

    def gradients(piece, accumulate, batches):
        torch.manual_seed(0)
        objective = KINDS[kind]()
        engine = started(objective, piece, accumulate=accumulate)
        for views in batches:
            engine.backward(engine(views))
        return {name: p.grad for name, p in objective.named_parameters() if p.requires_grad}

    alone = [gradients(None, 1, [views]) for views in batches]
    expected = {name: torch.stack([each[name] for each in alone]).mean(dim=0) for name in alone[0]}
    alike(gradients(piece, accumulate, batches), expected, 1e-5, least=0.01)


class Counting(nn.Module):
    """Remembers the largest batch it was given."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def forward(self, x):
        self.most = max(self.most, len(x))
        return x


def test_no_more_than_a_piece_is_made_or_encoded_at_a_time():
    counting, made = Counting(), []
    net = Tower(nn.Sequential(counting, nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 8)), {"z": nn.Linear(8, 4)})
    views = pictures(B)

    def make(rows, sample):
        made.append(len(rows))
        return rows

    views = views.__class__(
        tuple(Pending(crop, views.sample, make) for crop in views.crops), views.numbers, views.group, views.sample
    )
    engine = started(Objective(siamese(net), {"a": Term(InBatch(True), learned())}), 3)
    engine.backward(engine(views))
    assert counting.most == 2 * 3
    assert made == [2, 2, 2, 2, 3, 3] * 2  # two views, two passes


def test_views_are_made_where_they_are_wanted():
    made = []

    def pending(view, crop):
        return Pending(crop, views.sample, lambda rows, sample: made.append(view) or rows)

    views = pictures(B)
    crops = tuple(map(pending, views.numbers, views.crops))
    engine = started(KINDS["moco, one way"](), 4)
    engine.backward(engine(replace(views, crops=crops)))
    assert made == [0, 0, 1, 1, 0, 0]  # queries, keys, queries again


def test_dropout_is_the_same_in_both_passes():
    def net():
        torch.manual_seed(0)
        return Tower(
            nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * SIDE * SIDE, 8)), {"z": nn.Linear(8, 4)}
        )

    views = pictures(B)
    objective = Objective(siamese(net()), {"a": Term(InBatch(True), InfoNCE(0.2))})
    torch.manual_seed(1)
    engine = started(objective, 3)
    output = engine(views)
    slices = engine.pieces.slices
    engine.backward(output)
    after = torch.rand(1)

    # The same pieces with one graph over all of them.
    again = Objective(siamese(net()), {"a": Term(InBatch(True), InfoNCE(0.2))}).train()
    torch.manual_seed(1)
    parts = [again.encoder(views.part(piece))["z"] for piece in slices]
    joined = again.contrast({"z": parts[0].joined(parts)})
    joined.loss.backward()
    assert torch.equal(output.loss, joined.loss) and torch.equal(after, torch.rand(1))
    for mine, expected in zip(objective.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


@pytest.mark.parametrize("momentum", [False, True])
def test_running_statistics_move_as_in_one_pass(momentum):
    def build():
        torch.manual_seed(0)
        encoder = siamese(tower(norm=BatchNorm))
        return Momentum(encoder) if momentum else encoder

    views, mine, again = pictures(6), build(), build().train()
    provider = PositivesOnly() if momentum else InBatch(True)
    engine = started(Objective(mine, {"a": Term(provider, Alignment() if momentum else InfoNCE(0.2))}), 3)
    engine.backward(engine(views))
    for start in (0, 3):
        again(views.part(slice(start, start + 3)))
    for (name, buffer), expected in zip(mine.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)
    assert any(name.endswith("num_batches_tracked") and buffer == 2 for name, buffer in mine.named_buffers())


def test_a_batch_that_fits_is_not_cut():
    views = pictures(3)
    engine = started(KINDS["simclr"](), 3)
    output = engine(views)
    assert engine.pieces is None and output.loss.requires_grad
