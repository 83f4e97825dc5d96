"""Every mix trains or is refused with a sentence, and the page says so."""

import logging
import re
from pathlib import Path

import gin
import pytest
import torch
from torch import nn

from cl.components import Encoder, Loss, NegativeProvider, PostStepHook
from cl.composition.mixes import Mix, Outcome, mixes, outcome
from cl.composition.page import page
from cl.composition.parts import Choice, choices, registered
from cl.encoders.towers import Towers
from cl.types import Contrast
from cl.views.groups import Grouping

PAGE = Path(__file__).parent.parent.parent / "docs" / "composition.md"
REMEDY = re.compile(r"@\w+|\b[A-Z]\w+\.[a-z]\w*|holds all keys of a term")
"""A component or a parameter by name."""


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def holds(mix: Mix, found: Outcome):
    assert found.fault is None, mix.name
    assert (found.rule is None) == (not found.message)
    if found.rule is not None:
        assert "\n" not in found.message and REMEDY.search(found.message), f"{mix.name}: {found.message}"


def test_a_part_of_every_kind_is_found_by_what_it_is():
    assert registered(Encoder) == ["Dual", "Momentum", "Predict", "Siamese", "Towers"]
    assert {"InBatch", "PositivesOnly", "Queue", "Neighbours", "ClassVectors"} <= set(registered(NegativeProvider))
    assert {"InfoNCE", "Alignment", "SelfDistillation"} <= set(registered(Loss))
    assert set(registered(Grouping)) == {"BySample", "ByLabel", "ByCaption"}
    assert {"UpdateMomentum", "Enqueue", "UpdateCentre"} <= set(registered(PostStepHook))


def test_some_mixes_train_or_are_refused():
    every = list(mixes())
    assert len({mix.name for mix in every}) == len(every) > 40_000
    found = [(mix, outcome(mix)) for mix in every[::67]]
    for mix, each in found:
        holds(mix, each)
    assert sum(each.rule is None for _, each in found) > 10


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_mix_trains_or_is_refused_and_the_page_is_what_they_came_to():
    torch.set_num_threads(1)
    found = [(mix, outcome(mix)) for mix in mixes()]
    for mix, each in found:
        holds(mix, each)
    assert PAGE.read_text() == page(found)


class Crashing(nn.Module):
    """Of a batch: of the few rows that rules make up it is as good as any."""

    provides = needs = frozenset()
    spreads = True

    def forward(self, contrast: Contrast):
        return contrast.q.sum() if len(contrast.q) <= 6 else self.of_batch(contrast)

    def of_batch(self, contrast: Contrast):
        raise RuntimeError("it crashes")


class Infinite(Crashing):
    def of_batch(self, contrast: Contrast):
        return contrast.q.sum() * torch.inf


class Idle(Crashing):
    def of_batch(self, contrast: Contrast):
        return contrast.q.sum() * 0


@pytest.mark.parametrize(
    ("loss", "fault"),
    [
        (Crashing, "RuntimeError: it crashes"),
        (Infinite, "NumericError: .*not changed"),
        (Idle, "not trained: .*weight"),
    ],
)
def test_a_mix_that_crashes_or_trains_on_nothing_is_a_fault(loss, fault):
    encoder = next(choice for choice in choices(Encoder, {Towers: []}) if choice.name == "Siamese(unit_norm)")
    provider = next(
        choice for choice in choices(NegativeProvider, {NegativeProvider: []}) if choice.name == "InBatch(same_view)"
    )
    grouping = next(choice for choice in choices(Grouping, {}) if choice.name == "BySample()")
    found = outcome(Mix(encoder, provider, Choice(loss.__name__, loss), grouping, ()))
    assert found.rule is None and re.match(fault, found.fault)


def test_a_parameter_that_nobody_gave_a_value_is_named():
    class Unheard(nn.Module):
        provides = needs = frozenset()
        spreads = True

        def __init__(self, strangeness: float):
            super().__init__()

        def forward(self, contrast: Contrast):
            return contrast.q.sum()

    with gin.unlock_config():  # another test may have built something
        gin.register("Unheard", module="tests")(Unheard)
    try:
        with pytest.raises(ValueError, match=r"Unheard\.strangeness has no default: give it values"):
            choices(Loss, {})
    finally:
        gin.config._REGISTRY.pop("tests.Unheard")
