"""Every refusal fires, says which binding mends it, and lets healthy wirings pass. No data is opened."""

import logging
import re
from contextlib import nullcontext
from functools import partial
from typing import get_args

import pytest
from tiny import Noise, tower, trunk
from torch import nn
from wirings import (
    EMA,
    FILL,
    ByWard,
    Looks,
    NeedsLabels,
    Picky,
    Slow,
    align,
    captioned,
    distil,
    free,
    info_nce,
    momentum,
    pairs,
    pieces,
    predict,
    queue,
    rated,
    slip,
    training,
    two_headed,
    two_heads,
    views,
)

from cl.components import Capability
from cl.encoders.decorrelated import DecorrelatedBatchNorm
from cl.encoders.dual import dual
from cl.encoders.mlp import MLP
from cl.encoders.momentum import Momentum
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.engines.local import LocalEngine
from cl.errors import ConfigError
from cl.hooks.enqueue import Enqueue
from cl.hooks.monitor import CollapseMonitor
from cl.hooks.update_centre import UpdateCentre
from cl.losses.alignment import Alignment
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.losses.vicreg import VICReg
from cl.negatives.class_vectors import ClassVectors
from cl.negatives.in_batch import InBatch
from cl.negatives.neighbours import Neighbours
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Term
from cl.optim.rules import Rule
from cl.optim.schedules import Constant, Cosine
from cl.rules import check
from cl.rules.needs import REMEDY
from cl.views.groups import ByCaption, ByLabel
from cl.views.text import Captions

HEALTHY = {
    "simclr": lambda: training(siamese(tower()), info_nce(InBatch(True)), [CollapseMonitor()]),
    "supcon": lambda: training(siamese(tower()), info_nce(InBatch(True)), source=views(group=ByLabel())),
    "moco": lambda: training(momentum(query_views=(0,), key_views=(1,)), info_nce(queue()), [EMA, FILL]),
    "moco v3": lambda: training(momentum(True), info_nce(InBatch(False)), [EMA]),
    "supcon with a queue": lambda: training(
        momentum(), info_nce(queue(InBatch(True))), [EMA, FILL], views(group=ByLabel())
    ),
    "byol": lambda: training(momentum(True), align(), [EMA]),
    "classes of frozen features": lambda: training(
        siamese(Tower(trunk(), {"z": nn.Linear(8, 4)}, frozen=True)),
        info_nce(ClassVectors(3, 4)),
        source=views(group=ByLabel()),
    ),
    "groups of one's own over a single view": lambda: training(
        siamese(tower(), views=1), info_nce(InBatch(True)), source=views(1, group=ByWard())
    ),
    "hooks that fill a queue with a view each": lambda: training(
        momentum(), info_nce(queue()), [EMA, Enqueue(views=(0,)), Enqueue(views=(1,))]
    ),
    "hooks of one's own that look at the copy": lambda: training(momentum(True), align(), [EMA, Looks(), Looks()]),
    "a rate that is 0 now and then": lambda: rated(lambda step: float(step.index % 10 == 7)),
    "a temperature over a frozen network": lambda: training(
        siamese(Tower(trunk(), {"z": nn.Linear(8, 4)}, frozen=True)),
        Term(InBatch(True), InfoNCE(LearnedTemperature(0.1))),
    ),
    "clip": lambda: training(pairs(), info_nce(InBatch(False)), source=views(transforms=[Noise(), Captions(len)])),
    "unicl": lambda: training(
        pairs(), info_nce(InBatch(False)), source=views(transforms=[Noise(), Captions(len)], group=ByCaption())
    ),
    "two terms": lambda: training(two_heads(), {"a": info_nce(InBatch(True)), "b": align(weight=0.1, embedding="y")}),
    "moco of one": lambda: training(momentum(), info_nce(queue()), [EMA, FILL], views(batch=1)),
    "a queue of trained keys": lambda: training(
        siamese(tower()), info_nce(queue(InBatch(True), trained_keys=True)), [FILL]
    ),
    "a queue shorter than the batch": lambda: training(
        momentum(), info_nce(queue(size=3, shorter_than_batch=True)), [EMA, FILL]
    ),
    "vicreg": lambda: training(siamese(tower(), unit_norm=False), Term(PositivesOnly(), VICReg())),
    "labels for an evaluation": lambda: training(
        siamese(tower()), info_nce(InBatch(True)), evaluations=[NeedsLabels("labels")]
    ),
    "simsiam": lambda: training(predict(), align()),
    "nnclr": lambda: training(predict(), info_nce(Neighbours(8, 4)), [FILL]),
    "nnclr without predictor": lambda: training(siamese(tower()), info_nce(Neighbours(8, 4)), [FILL]),
    "dino": lambda: training(free(), distil(), [EMA, UpdateCentre()]),
    "cross-entropy": lambda: training(siamese(tower()), info_nce(ClassVectors(3, 4)), source=views(group=ByLabel())),
    "simsiam in pieces": lambda: pieces(training(predict(), align())),
    "slip with a queue of pictures": lambda: training(
        Momentum(slip()),
        {"clip": info_nce(InBatch(False)), "ssl": Term(queue(), InfoNCE(0.1), embedding="ssl")},
        [EMA, FILL],
        captioned(3),
    ),
    "a queue of texts that a frozen tower makes": lambda: training(
        Momentum(dual(tower(), tower(frozen=True)), query_views=(0,), key_views=(1,)),
        info_nce(queue()),
        [EMA, FILL],
        captioned(),
    ),
    "one way of two towers": lambda: training(pairs(), info_nce(InBatch(False, (0,))), source=captioned()),
}

REFUSED = {
    "group by label without labels": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), source=views(group=ByLabel(), provides=())),
        r"MemoryViews needs 'labels'.*@BySample\(\)",
    ),
    "captions that are not there": (
        lambda: training(
            pairs(), info_nce(InBatch(False)), source=views(transforms=[Noise(), Captions(len)], provides=())
        ),
        r"MemoryViews needs 'captions'.*use data with captions",
    ),
    "a view that is not made": (
        lambda: training(siamese(tower(), views=3), info_nce(InBatch(True))),
        r"wants view 2; MemoryViews makes 2.*MemoryViews\.transforms",
    ),
    "a view nobody looks at": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), source=views(3)),
        r"View 2 is made.*MemoryViews\.transforms",
    ),
    "an embedding that is not made": (
        lambda: training(siamese(tower()), Term(InBatch(True), InfoNCE(0.1), embedding="y")),
        r"embedding 'y'.*\['z'\].*Term\.embedding",
    ),
    "a queue without momentum keys": (
        lambda: training(siamese(tower()), info_nce(queue(InBatch(True))), [FILL]),
        r"Queue needs 'momentum'.*Objective\.encoder = @Momentum\(\).*@UpdateMomentum\(\)",
    ),
    "InfoNCE without negatives": (
        lambda: training(siamese(tower()), info_nce(PositivesOnly())),
        r"InfoNCE needs 'negatives'.*@InBatch\(\).*@Queue\(\)",
    ),
    "VICReg of unit rows": (
        lambda: training(siamese(tower()), Term(PositivesOnly(), VICReg())),
        r"VICReg needs 'free length'.*unit_norm = False",
    ),
    "Alignment without pairs": (
        lambda: training(momentum(True), align(InBatch(False)), [EMA]),
        r"Alignment needs 'paired'.*Term\.provider = @PositivesOnly\(\)",
    ),
    "Enqueue without a queue": (
        lambda: training(momentum(True), info_nce(InBatch(False)), [EMA, FILL]),
        r"Enqueue needs 'queue'.*Term\.provider = @Queue\(\)",
    ),
    "UpdateMomentum without a copy": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), [EMA]),
        r"UpdateMomentum needs 'momentum'.*Objective\.encoder = @Momentum\(\)",
    ),
    "a copy that is never moved": (
        lambda: training(momentum(), info_nce(InBatch(False))),
        r"never moved.*@UpdateMomentum\(\) to cl\.train\.hooks",
    ),
    "a queue that is never filled": (
        lambda: training(momentum(), info_nce(queue()), [EMA]),
        r"never filled.*@Enqueue\(\) to cl\.train\.hooks",
    ),
    "a batch of one": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), source=views(batch=1)),
        r"'only'.*a batch of 1 has none.*MemoryViews\.batch",
    ),
    "a batch too small to whiten": (
        lambda: training(
            siamese(Tower(trunk(), {"z": MLP((8, 18), norm_last=partial(DecorrelatedBatchNorm, group=9))})),
            info_nce(InBatch(True)),
        ),
        r"8 samples at a time give a head at most 16 rows.*needs 18.*groups of 9.*MemoryViews\.batch",
    ),
    "a queue of another width": (
        lambda: training(momentum(), info_nce(queue(dim=5)), [EMA, FILL]),
        r"Queue\.dim is 5 and the embedding 'z' is 4 wide\. Bind Queue\.dim = 4",
    ),
    "a queue shorter than the batch": (
        lambda: training(momentum(), info_nce(queue(size=7)), [EMA, FILL]),
        r"a queue of 7 does not hold.*8.*Queue\.shorter_than_batch = True",
    ),
    "neighbours of rows of any length": (
        lambda: training(siamese(tower(), unit_norm=False), info_nce(Neighbours(8, 4)), [FILL]),
        r"Neighbours needs 'unit norm'.*Siamese\.unit_norm = True",
    ),
    "neighbours that are never filled": (
        lambda: training(predict(), info_nce(Neighbours(8, 4))),
        r"never filled.*@Enqueue\(\)",
    ),
    "neighbours of another width": (
        lambda: training(predict(), info_nce(Neighbours(8, 5)), [FILL]),
        r"Neighbours\.dim is 5 and the embedding 'z' is 4 wide\. Bind Neighbours\.dim = 4",
    ),
    "a copy that is moved twice": (
        lambda: training(momentum(True), align(), [EMA, CollapseMonitor(), EMA]),
        r"cl\.train\.hooks has @UpdateMomentum\(\) twice.*Take one",
    ),
    "a queue that is filled twice": (
        lambda: training(momentum(), info_nce(queue()), [EMA, FILL, Enqueue(views=(1,))]),
        r"cl\.train\.hooks has @Enqueue\(\) twice",
    ),
    "a view that is enqueued twice": (
        lambda: training(momentum(), info_nce(queue()), [EMA, Enqueue(views=(1, 1))]),
        r"Enqueue\.views names a view twice",
    ),
    "a rate of 0": (
        lambda: rated(Constant(), Rule("encoder", rate=0.0)),
        r"No parameter has a learning rate above 0 at any step.*SGD\.lr above 0",
    ),
    "a schedule that is 0": (
        lambda: rated(Constant(0.0)),
        r"No parameter has a learning rate above 0 at any step.*cl\.train\.schedule",
    ),
    "two monitors": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), [CollapseMonitor(), CollapseMonitor(every=7)]),
        r"cl\.train\.hooks has @CollapseMonitor\(\) twice.*hide",
    ),
    "a copy that is moved by two kinds": (
        lambda: training(momentum(True), align(), [EMA, Slow(0.9)]),
        r"cl\.train\.hooks has @UpdateMomentum\(\) twice",
    ),
    "a rate below 0": (
        lambda: rated(Cosine(1.0, -1.0)),
        r"rate is below 0 at step \d+.*factors of SGD\.lr",
    ),
    "a weight below 0": (
        lambda: training(siamese(tower()), Term(InBatch(True), InfoNCE(0.1), weight=-1.0)),
        r"No term has a weight above 0.*Bind Term\.weight",
    ),
    "a pattern that is none": (
        lambda: rated(Constant(), Rule("(")),
        r"Rule\.pattern '\(' is no regular expression",
    ),
    "no positives": (
        lambda: training(siamese(tower(), views=1), info_nce(InBatch(True)), source=views(1)),
        r"no query has a positive.*Siamese\.views = 2",
    ),
    "a head that no route leads to": (
        lambda: training(siamese(two_headed()), info_nce(InBatch(True))),
        r"head 'y' of the tower 'image' is to be trained, and no route leads to it",
    ),
    "a centre that is never moved": (
        lambda: training(free(), distil(), [EMA]),
        r"centre is never moved.*@UpdateCentre\(\) to cl\.train\.hooks",
    ),
    "a centre to move, and none there": (
        lambda: training(momentum(True), align(), [EMA, UpdateCentre()]),
        r"UpdateCentre needs 'centre'.*@SelfDistillation\(\)",
    ),
    "prototypes of another number": (
        lambda: training(free(), distil(5), [EMA, UpdateCentre()]),
        r"SelfDistillation\.dim is 5 and the embedding 'z' is 4 wide",
    ),
    "class vectors against samples": (
        lambda: training(siamese(tower()), info_nce(ClassVectors(3, 4))),
        r"ClassVectors needs 'groups of a label'.*@ByLabel\(\)",
    ),
    "pieces whose keys have a gradient": (
        lambda: pieces(training(predict(stop_gradient=False), info_nce(InBatch(False)))),
        r"LocalEngine\.piece cuts the batch.*Predict\.stop_gradient = True",
    ),
    "a tower whose rows are keys alone": (
        lambda: training(Momentum(pairs()), info_nce(InBatch(False, (0,))), [EMA], captioned()),
        r"The tower 'text' is to be trained.*view 1 of 'z'.*InBatch\.queries = None",
    ),
    "a tower whose view is no query": (
        lambda: training(Momentum(pairs(), query_views=(0,)), info_nce(InBatch(False)), [EMA], captioned()),
        r"The tower 'text' is to be trained.*Momentum\.query_views = None.*Tower\.frozen = True",
    ),
    "a head that no term is about": (
        lambda: training(two_heads(), info_nce(InBatch(True))),
        r"The head 'y' of the tower 'image' is to be trained, and no loss has a gradient",
    ),
    "a term without weight": (
        lambda: training(siamese(tower()), Term(InBatch(True), InfoNCE(0.1), weight=0.0)),
        r"Term 'only' has the weight 0.*Term\.weight",
    ),
    "a queue that no view is put in": (
        lambda: training(momentum(), info_nce(queue()), [EMA, Enqueue(views=())]),
        r"Enqueue\.views names no view.*Bind Enqueue\.views to some of 0, 1",
    ),
    "statistics of one row": (
        lambda: training(siamese(tower(), unit_norm=False), Term(PositivesOnly(), VICReg()), source=views(batch=1)),
        r"Term 'only': .*VICReg",
    ),
    "a provider that refuses the views": (
        lambda: training(siamese(tower()), Term(Picky(), Alignment()), allow_collapse=True),
        r"Term 'only': three views are the least\.",
    ),
    "views that never differ": (
        lambda: training(momentum(count=1), info_nce(queue()), [EMA, FILL], views(1)),
        r"finds nothing to contrast.*\(0,\) and key views \(0,\).*Momentum\.key_views",
    ),
    "a second positive, an epoch later": (
        lambda: training(momentum(), Term(queue(stale_same="positive"), HardNegativeInfoNCE(0.1)), [EMA, FILL]),
        r"takes one positive a row.*Queue\.stale_same = 'ignored'",
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_wirings_pass(name, caplog):
    with caplog.at_level(logging.WARNING):
        check(HEALTHY[name]())
    assert not caplog.records


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_its_remedy(name):
    build, message = REFUSED[name]
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)) as error:
        check(build())
    assert error.value.code == 2 and "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_allow_collapse_allows_nothing_else(name):
    built = REFUSED[name][0]()
    built.allow_collapse = True
    with pytest.raises(ConfigError):
        check(built)


def test_a_queue_may_lengthen_both_directions():
    check(training(siamese(tower()), info_nce(queue(InBatch(False), trained_keys=True)), [FILL]))


def test_a_queue_of_other_samples_is_no_queue_of_positives():
    check(training(momentum(), Term(queue(), HardNegativeInfoNCE(0.1)), [EMA, FILL]))


@pytest.mark.parametrize("batch", [1, 8])
def test_negatives_that_are_not_the_batchs_need_no_batch(batch):
    check(training(siamese(tower()), info_nce(ClassVectors(3, 4)), source=views(batch=batch, group=ByLabel())))
    with pytest.raises(ConfigError, match="a batch of 1 has none") if batch == 1 else nullcontext():
        check(training(predict(), info_nce(Neighbours(8, 4)), [FILL], views(batch=batch)))


def test_pieces_that_cut_nothing_lose_nothing():
    built = training(predict(stop_gradient=False), info_nce(InBatch(False)))
    built.engine = LocalEngine(piece=64)
    check(built)


def test_keys_that_nobody_looks_at_are_refused():
    made = training(momentum(), info_nce(ClassVectors(3, 4)), [EMA], views(group=ByLabel()))
    with pytest.raises(ConfigError, match=r"Momentum makes keys for every batch, and ClassVectors looks at none\."):
        check(made)


def test_whatever_is_needed_has_a_remedy():
    assert set(REMEDY) == set(get_args(Capability))
