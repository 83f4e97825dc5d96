"""Trainings to be checked, of parts small enough to build in no time. No data can be opened."""

from tiny import Noise, Pictures, tower, trunk
from torch import nn

from cl.encoders.dual import dual
from cl.encoders.momentum import Momentum
from cl.encoders.predict import Predict
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.encoders.towers import Towers
from cl.engines.local import LocalEngine
from cl.evaluation.knn import KNN
from cl.evaluation.zero_shot import ZeroShot
from cl.hooks.enqueue import Enqueue
from cl.hooks.stateless import Stateless
from cl.hooks.update_momentum import UpdateMomentum
from cl.losses.alignment import Alignment
from cl.losses.info_nce import InfoNCE
from cl.losses.self_distillation import SelfDistillation
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD
from cl.train import Training
from cl.views.digits import Digits
from cl.views.groups import BySample
from cl.views.memory import MemoryViews
from cl.views.text import Captions


class Unopened(Pictures):
    def __init__(self, *provides):
        super().__init__(8)
        self.provides = frozenset(provides)

    def load(self):
        raise AssertionError("data was opened")

    read = load


class NeedsLabels:
    name = "labels"
    needs = frozenset({"labels"})

    def __init__(self, *provides):
        self.data = {"bank": Unopened("labels"), "test": Unopened(*provides)}

    def baseline(self, device):
        raise AssertionError("an evaluation ran")

    def __call__(self, encoder, split, device):
        raise AssertionError("an evaluation ran")


class Cut(Noise):
    """Pictures of its own size, or, with letters, tokens."""

    def __init__(self, side=4, letters=False):
        super().__init__()
        self.side, self.letters = side, letters

    def prepare(self, samples):
        pictures = samples.images[..., : self.side, : self.side]
        return pictures[:, 0, :, 0].long() % 9 if self.letters else pictures

    def __call__(self, rows, *place):
        return rows if self.letters else super().__call__(rows, *place)


class ByWard:
    """A grouping of a user's own, which says nothing of itself."""

    provides = needs = frozenset()

    def __call__(self, samples):
        return samples.sample % 2


def sized(first, second, **settings):
    """Views of data of ours, which is not opened, by transforms that know their size."""
    return views(transforms=[first, second], data=Digits("train"), **settings)


def knn(view=0):
    return KNN(Unopened("labels"), Unopened("labels"), Unopened("labels"), view=view)


def views(count=2, batch=8, group=None, transforms=None, provides=("labels", "captions"), data=None):
    transforms = [Noise() for _ in range(count)] if transforms is None else transforms
    return MemoryViews(data or Unopened(*provides), batch, transforms, BySample() if group is None else group)


def training(encoder, terms, hooks=(), source=None, evaluations=(), allow_collapse=False):
    terms = terms if isinstance(terms, dict) else {"only": terms}
    return Training(
        objective=Objective(encoder, terms),
        views=views() if source is None else source,
        optimizer=SGD(0.1),
        schedule=Constant(),
        engine=LocalEngine(),
        steps=1,
        hooks=hooks,
        evaluations=evaluations,
        allow_collapse=allow_collapse,
    )


def momentum(predictor=False, count=2, **settings):
    predictors = {"z": nn.Linear(4, 4)} if predictor else None
    return Momentum(siamese(tower(), views=count), predictors=predictors, **settings)


def info_nce(provider):
    return Term(provider, InfoNCE(0.1))


def align(provider=None, **settings):
    return Term(PositivesOnly() if provider is None else provider, Alignment(), **settings)


def queue(inner=None, size=8, dim=4, **settings):
    return Queue(PositivesOnly() if inner is None else inner, size=size, dim=dim, **settings)


def pairs():
    return dual(tower(), Tower(nn.Sequential(nn.Embedding(9, 8), nn.Flatten()), {"z": nn.Linear(8, 4)}))


def two_headed():
    return Tower(trunk(), {"z": nn.Linear(8, 4), "y": nn.Linear(8, 4)})


def momentum_of(head):
    return Momentum(siamese(Tower(trunk(), {"z": head})))


def zero_shot(*prompts):
    data = Unopened("labels")
    return ZeroShot(data, data, len, ["one", "two"], prompts)


def two_heads():
    net = two_headed()
    return Towers({"image": net}, [(view, "image", head, head) for view in (0, 1) for head in ("z", "y")])


class Looks(Stateless):
    """A hook of a user's own, that reads."""

    needs = frozenset({"momentum"})

    def __call__(self, objective, output, step):
        return {}


class Slow(UpdateMomentum):
    """And one that moves."""


EMA, FILL = UpdateMomentum(0.9), Enqueue()


def predict(stop_gradient=True):
    return Predict(siamese(tower()), {"z": nn.Linear(4, 4)}, stop_gradient)


def distil(dim=4):
    return Term(PositivesOnly(), SelfDistillation(dim))


def free():
    return Momentum(siamese(tower(), unit_norm=False))


def pieces(built):
    built.engine = LocalEngine(piece=2)
    return built


def rated(schedule, *rules):
    built = training(siamese(tower()), info_nce(InBatch(True)))
    built.optimizer, built.schedule, built.steps = SGD(0.1, rules=rules), schedule, 1000
    return built


def slip(**settings):
    """A tower of pictures with two heads, one for the pairs with texts, one for two of its own views."""
    text = Tower(nn.Sequential(nn.Embedding(9, 8), nn.Flatten()), {"z": nn.Linear(8, 4)}, **settings)
    image = Tower(trunk(), {"z": nn.Linear(8, 4), "ssl": nn.Linear(8, 4)})
    routes = [(0, "image", "z", "z"), (1, "text", "z", "z"), (0, "image", "ssl", "ssl"), (2, "image", "ssl", "ssl")]
    return Towers({"image": image, "text": text}, routes)


def captioned(count=2, **settings):
    return views(transforms=[Noise(), Captions(len), Noise()][:count], **settings)


def two_towers():
    """Two embeddings of pictures, each with a tower of its own."""
    routes = [(view, name, "z", name) for name in ("one", "other") for view in (0, 1)]
    return Towers({"one": tower(), "other": tower()}, routes)


class Picky(PositivesOnly):
    """A provider of the user's own, with conditions of its own."""

    def forward(self, embeddings):
        raise ValueError("three views are the least")
