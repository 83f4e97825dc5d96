"""Made-up samples pass transforms and networks before data is opened, and leave no trace."""

import copy
import re

import pytest
import torch
from tiny import tower, trunk
from torch import nn
from wirings import (
    EMA,
    FILL,
    Cut,
    NeedsLabels,
    info_nce,
    knn,
    momentum_of,
    pairs,
    queue,
    sized,
    training,
    views,
    zero_shot,
)

from cl import rehearsal
from cl.encoders.norms import BatchNorm, SplitBatchNorm
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.engines.local import LocalEngine
from cl.engines.pieces import smallest_piece
from cl.errors import ConfigError
from cl.negatives.in_batch import InBatch
from cl.rules import check
from cl.types import Views

REFUSED = {
    "pictures of another size": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), source=sized(Cut(3), Cut(3))),
        r"networks fail on made-up samples.*view 0 is pictures \(3, 3, 3\).*RuntimeError.*transforms",
    ),
    "texts for pictures": (
        lambda: training(pairs(), info_nce(InBatch(False)), source=sized(Cut(1, True), Cut())),
        r"networks fail on made-up samples.*view 0 is texts \(1,\).*transforms",
    ),
    "a std of 0": (
        lambda: training(siamese(tower(std=(0.0, 0.0, 0.0))), info_nce(InBatch(True)), source=sized(Cut(), Cut())),
        r"networks fail.*rows of 'z' are not finite.*mean and std",
    ),
    "a queue of another width than a head that does not say its own": (
        lambda: training(momentum_of(nn.Identity()), info_nce(queue()), [EMA, FILL], sized(Cut(), Cut())),
        r"Queue\.dim is 4 and the embedding 'z' is 8 wide\. Bind Queue\.dim = 8",
    ),
    "an evaluation of a view that is not there": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), evaluations=[knn(5)]),
        r"KNN\.view is 5, and the encoder looks at views 0, 1\. Bind KNN\.view",
    ),
    "an evaluation of pictures as texts": (
        lambda: training(
            pairs(),
            info_nce(InBatch(False)),
            source=sized(Cut(), Cut(1, True)),
            evaluations=[knn(1)],
        ),
        r"KNN\.view is 1, a view of texts\. Bind KNN\.view to a view of pictures",
    ),
    "prompts that name nothing": (
        lambda: training(pairs(), info_nce(InBatch(False)), evaluations=[zero_shot("a {}", "a photo")]),
        r"ZeroShot\.prompts has 'a photo', which names no class\. Write \{\}",
    ),
    "prompts that name something else": (
        lambda: training(pairs(), info_nce(InBatch(False)), evaluations=[zero_shot("a {digit}")]),
        r"ZeroShot\.prompts has 'a \{digit\}'",
    ),
    "an evaluation without its labels": (
        lambda: training(siamese(tower()), info_nce(InBatch(True)), evaluations=[NeedsLabels()]),
        r"NeedsLabels needs 'labels', which its test data does not provide.*use data with labels",
    ),
}


@pytest.mark.parametrize("allow_collapse", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_its_remedy(name, allow_collapse):
    build, message = REFUSED[name]
    built = build()
    built.allow_collapse = allow_collapse
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)) as error:
        check(built)
    assert error.value.code == 2 and "\n" not in str(error.value)


def test_pictures_and_texts_pass():
    check(
        training(
            pairs(),
            info_nce(InBatch(False)),
            source=sized(Cut(), Cut(1, True)),
            evaluations=[knn(), zero_shot("a {}")],
        )
    )


class Neighbourly(nn.Module):
    """A head that needs so many rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x):
        if len(x) < self.rows:
            raise RuntimeError("too few rows")
        return x


def of(head, batch=8, **settings):
    """A training whose views know their size, with that head."""
    net = Tower(trunk(), {"z": head}, **settings)
    return training(siamese(net, joint=False), info_nce(InBatch(True)), source=sized(Cut(), Cut(), batch=batch))


def test_networks_that_look_across_the_batch_get_as_many_rows_as_it_has():
    check(of(Neighbourly(8)))
    with pytest.raises(ConfigError, match="too few rows"):
        check(of(Neighbourly(9)))


@pytest.mark.parametrize(
    ("norm", "batch", "piece", "message"),
    [
        (BatchNorm(8), 8, 1, r"as few samples as 1 pass.*Expected more than 1 value.*Bind LocalEngine\.piece higher"),
        (SplitBatchNorm(8, splits=8), 15, None, r"batch of 15 in 8 parts.*Lower SplitBatchNorm\.splits"),
        (SplitBatchNorm(8, splits=4), 16, 7, r"batch of 5 in 4 parts.*Lower SplitBatchNorm\.splits"),
        (BatchNorm(8), 8, 2, None),
        (SplitBatchNorm(8, splits=8), 16, None, None),
        (nn.LayerNorm(8), 8, 1, None),
    ],
)
def test_statistics_are_taken_of_as_few_rows_as_pass_at_a_time(norm, batch, piece, message):
    built = of(nn.Sequential(norm, nn.Linear(8, 4)), batch)
    built.engine = LocalEngine(piece=piece)
    if message is None:
        return check(built)
    with pytest.raises(ConfigError, match=message):
        check(built)
    crops = rehearsal.crops(built.views, smallest_piece(batch, piece))
    with pytest.raises((ConfigError, ValueError)):  # as the first step would
        built.objective.encoder(Views(tuple(crops), (0, 1), *[torch.arange(len(crops[0]))] * 2))


class Leaky(nn.Module):
    """Counts its calls in a buffer, and draws numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + torch.rand(())


def test_nothing_of_the_run_changes():
    built = of(nn.Sequential(Leaky(), BatchNorm(8), nn.Linear(8, 4)))
    transforms = copy.deepcopy([vars(each) for each in built.views.transforms])
    before = {name: value.clone() for name, value in built.objective.state_dict().items()}
    modes = [module.training for module in built.objective.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check(built)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in built.objective.state_dict().items())
    assert [module.training for module in built.objective.modules()] == modes
    assert [vars(each) for each in built.views.transforms] == transforms


class Opens(Cut):
    """A transform of a user's own that keeps what it opened."""

    opened = None

    def __call__(self, rows, *place):
        self.opened = "a file"
        return super().__call__(rows, *place)


def test_transforms_are_copied():
    built = training(siamese(tower()), info_nce(InBatch(True)), source=sized(Opens(), Opens()))
    check(built)
    assert rehearsal.crops(built.views) is not None and built.views.transforms[0].opened is None


class Lost(nn.Module):
    def forward(self, x):
        raise RuntimeError("gloo: Connection closed by peer")


def test_a_lost_peer_is_no_mistake_of_the_configuration():
    with pytest.raises(RuntimeError, match="closed by peer"):
        check(of(Lost()))


@pytest.mark.parametrize("source", [lambda: views(transforms=[Cut(3), Cut(3)]), lambda: sized(Cut(99), Cut(99))])
def test_what_is_not_known_yet_is_not_tried(source):
    """Data of a user's own may have any pictures; and a transform may keep their size."""
    assert rehearsal.crops(source()) is None
    check(training(siamese(tower()), info_nce(InBatch(True)), source=source()))
