"""What is prevented by each thing that a component says it needs: the same wiring, trained as if nothing were asked."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tower
from unchecked import built, refuses, same, trained, with_seed

from cl.components import Loss, NegativeProvider, PostStepHook, Step
from cl.composition.parts import choices
from cl.encoders.momentum import Momentum
from cl.encoders.siamese import siamese
from cl.errors import ConfigError, NumericError
from cl.hooks.enqueue import Enqueue
from cl.hooks.update_centre import UpdateCentre
from cl.hooks.update_momentum import UpdateMomentum
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
from cl.optim.sgd import SGD
from cl.run_folder import RunFolder
from cl.types import Embeddings

SHOWN = {
    "test_a_loss_of_pairs_has_none": {
        ("Alignment", "paired"),
        ("BarlowTwins", "paired"),
        ("SelfDistillation", "paired"),
        ("VICReg", "paired"),
    },
    "test_a_loss_of_negatives_has_none": {
        ("DecoupledInfoNCE", "negatives"),
        ("HardNegativeInfoNCE", "negatives"),
        ("InfoNCE", "negatives"),
        ("Sigmoid", "negatives"),
    },
    "test_a_queues_keys_would_be_of_other_networks": {("Queue", "momentum")},
    "test_a_teacher_that_is_trained_would_be_driven_away": {("SelfDistillation", "momentum")},
    "test_a_student_of_unit_rows_could_never_agree": {("SelfDistillation", "free length")},
    "test_unit_rows_can_never_have_the_variance_that_is_asked_for": {("VICReg", "free length")},
    "test_hard_negatives_of_long_rows_would_be_no_numbers": {("HardNegativeInfoNCE", "unit norm")},
    "test_a_long_row_would_be_the_neighbour_of_all": {("Neighbours", "unit norm")},
    "test_class_vectors_would_train_on_nothing": {("ClassVectors", "groups of a label")},
    "test_a_hook_would_find_nothing_to_do": {
        ("Enqueue", "queue"),
        ("UpdateCentre", "centre"),
    },
    "test_a_hook_would_find_no_copy": {("UpdateMomentum", "momentum")},
}
"""By the test that shows what is prevented, component and need."""


def test_every_need_of_a_component_is_shown():
    providers = choices(NegativeProvider, {NegativeProvider: choices(NegativeProvider, {NegativeProvider: []})})
    every = [*providers, *choices(Loss, {}), *choices(PostStepHook, {})]
    asked = set()
    for choice in every:
        try:
            part = choice.build()
        except ValueError:  # a queue of a queue
            continue
        inner = getattr(part, "inner", None)
        asked |= {(type(part).__name__, need) for need in part.needs - getattr(inner, "needs", frozenset())}
    assert asked == set().union(*SHOWN.values())
    assert all(name in globals() for name in SHOWN)


def free():
    return siamese(tower(), unit_norm=False)


@pytest.mark.parametrize("loss", [Alignment(), BarlowTwins(), SelfDistillation(4), VICReg()], ids=type)
def test_a_loss_of_pairs_has_none(loss, tmp_path):
    with pytest.raises((ValueError, AttributeError)):
        trained(refuses("terms", built(free(), InBatch(True), loss)), tmp_path)


@pytest.mark.parametrize(
    "loss", [InfoNCE(0.1), DecoupledInfoNCE(0.1), HardNegativeInfoNCE(0.1), Sigmoid(0.1, -5.0)], ids=type
)
def test_a_loss_of_negatives_has_none(loss, tmp_path):
    with pytest.raises((ValueError, ConfigError)):
        trained(refuses("terms", built(siamese(tower()), PositivesOnly(), loss)), tmp_path)


def test_a_queues_keys_would_be_of_other_networks(tmp_path):
    """Four steps after they were enqueued the encoder makes others; its slow copy nearly the same."""

    def drift(encoder, hooks, name):
        make = lambda: built(encoder(), Queue(InBatch(False), 64, 4), InfoNCE(0.1), hooks)  # noqa: E731
        training, embeddings = with_seed(make), []
        training.start()
        batches, run = training.views.iterate(training.place), RunFolder(tmp_path / name, resume=False)
        views = next(batches).made()

        def keys():
            with torch.no_grad():
                found = training.objective.encoder(views)["z"]
            return found.q if found.k is None else found.k

        for index in range(4):
            embeddings.append(keys())
            training.step(Step(index, 4), batches, run)
        return 1 - float(F.cosine_similarity(embeddings[0], keys()).mean())

    refuses("terms", built(siamese(tower()), Queue(InBatch(False), 64, 4), InfoNCE(0.1), [Enqueue()]))
    trained_keys = drift(lambda: siamese(tower()), [Enqueue()], "plain")
    slow = drift(lambda: Momentum(siamese(tower())), [UpdateMomentum(0.99), Enqueue()], "slow")
    assert trained_keys > 0.05 and slow < trained_keys / 30


def lengths(training, folder, steps):
    """Mean lengths of the queries of some steps."""
    training.start()
    batches, run, found = training.views.iterate(training.place), RunFolder(folder, resume=False), []
    for index in range(steps):
        output, *_ = training.step(Step(index, steps), batches, run)
        found.append(float(output.embeddings["z"].q.norm(dim=1).mean()))
    return found


def test_a_teacher_that_is_trained_would_be_driven_away(tmp_path):
    """It follows its student as its student follows it, and scores grow without bound."""

    def make(encoder, *hooks):
        loss, slow = SelfDistillation(4, 0.2, 0.1), SGD(0.01)
        return with_seed(lambda: built(encoder(), PositivesOnly(), loss, [UpdateCentre(), *hooks], optimizer=slow))

    loose = refuses("terms", make(free))
    kept = make(lambda: Momentum(free()), UpdateMomentum(0.99))
    assert lengths(loose, tmp_path / "loose", 100)[-1] > 1e3
    assert lengths(kept, tmp_path / "kept", 100)[-1] < 10


def test_a_student_of_unit_rows_could_never_agree():
    """The surest unit row gives one of DINO's 65,536 prototypes a quarter; scores of free length nearly all."""
    hooks = [UpdateMomentum(0.9), UpdateCentre()]
    refuses("terms", built(Momentum(siamese(tower())), PositivesOnly(), SelfDistillation(4), hooks))
    loss, surest = SelfDistillation(65536), torch.zeros(2, 65536)
    surest[:, 0] = 1
    ids = torch.tensor([[0, 0, 0], [0, 0, 1]])

    def least(rows):
        contrasts = PositivesOnly()(Embeddings(rows, ids, (0, 1), rows, ids, (0, 1)))
        return max(float(loss(contrast)) for contrast in contrasts)

    assert least(surest) > 1.3 and least(3 * surest) < 1e-3


def test_unit_rows_can_never_have_the_variance_that_is_asked_for(tmp_path):
    """A feature's deviation is to be 1, and that of d = 4 features of a unit row is 1 / sqrt(d) at most."""

    def make(encoder):
        return with_seed(
            lambda: built(encoder(), PositivesOnly(everywhere=True), VICReg(), optimizer=SGD(0.001), count=2)
        )

    def loss(training, folder):
        trained(training, folder, steps=500)
        return training.objective(next(training.views.iterate(training.place)).made()).loss.item()

    assert loss(refuses("terms", make(lambda: siamese(tower()))), tmp_path / "unit") > 25 * (1 - 1.04 / 2)
    assert loss(make(free), tmp_path / "free") < 5


def test_hard_negatives_of_long_rows_would_be_no_numbers(tmp_path):
    """Nothing bounds their logits: the longer the better the loss, until a debiased sum is none."""
    training = refuses("terms", with_seed(lambda: built(free(), InBatch(True), HardNegativeInfoNCE(0.1))))
    with pytest.raises(NumericError, match="loss is nan"):
        trained(training, tmp_path, steps=100)


def test_a_long_row_would_be_the_neighbour_of_all():
    refuses("terms", built(free(), Neighbours(64, 4), InfoNCE(0.1), [Enqueue()]))
    provider, past = (
        Neighbours(64, 4),
        F.normalize(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), dim=1),
    )
    past[0] *= 100
    provider.ring.enqueue(past, torch.zeros(64, 3, dtype=torch.int64))
    near = provider.nearest(past[1:])
    toward = past[1:] @ past[0] > 0
    assert toward.sum() > 20 and torch.equal(near[toward], past[0].expand(int(toward.sum()), 4))


def test_class_vectors_would_train_on_nothing(tmp_path):
    training = refuses("terms", built(siamese(tower()), ClassVectors(3, 4), InfoNCE(0.1)))
    before = {name: value.clone() for name, value in training.objective.state_dict().items()}
    assert same(trained(training, tmp_path), before) == before.keys()


def test_a_hook_would_find_no_copy(tmp_path):
    training = built(siamese(tower()), InBatch(True), InfoNCE(0.1), [UpdateMomentum(0.9)])
    with pytest.raises(AssertionError, match="needs a Momentum encoder"):
        trained(refuses("hooks", training), tmp_path)


@pytest.mark.parametrize("hook", [Enqueue(), UpdateCentre()], ids=type)
def test_a_hook_would_find_nothing_to_do(hook, tmp_path):
    def make(*hooks):
        return with_seed(lambda: built(siamese(tower()), InBatch(True), InfoNCE(0.1), hooks))

    plain = trained(make(), tmp_path / "plain")
    assert same(trained(refuses("hooks", make(hook)), tmp_path / "with"), plain) == plain.keys()
