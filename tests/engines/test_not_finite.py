"""Under ZeRO, at every precision: what is not finite on one rank ends the step on all, and nothing was changed.

And bfloat16 there is bfloat16: near float32's gradient, and not it.
"""

import sys
from pathlib import Path

import pytest
import torch
from ranks import met, processes
from recipes import sharded, smooth

from cl.components import Step
from cl.distributed import rank
from cl.errors import NumericError, Overflow
from cl.types import Views

pytestmark = pytest.mark.alone

STAGES, WORLD = (0, 1, 2, 3), 2
PRECISIONS = ("float32", "bfloat16")
FAULTS = ("nan picture", "inf picture", "inf loss", "nan gradient")
SMALL = {"cl.train.optimizer": "@SGD()", "SGD.lr": 0.01, "DeepSpeedEngine.channels_last": False}


def spoilt(engine, views, fault):
    """A batch's backward pass, spoilt on rank 1."""
    mine = rank() == 1
    views = views.made()
    if mine and fault.endswith("picture"):
        first, *others = views.crops
        crops = (first * (torch.nan if fault.startswith("nan") else torch.inf), *others)
        views = Views(crops, views.numbers, views.group, views.sample, views.keys)
    output = engine(views)
    if mine and fault == "inf loss":
        output.loss.data.fill_(torch.inf)
    if mine and fault == "nan gradient":
        output.loss.register_hook(lambda gradient: gradient * torch.nan)
    engine.backward(output)


def tried(training, fault):
    """Which error a spoilt second step ends with, whether parameters changed, and the loss of another batch."""
    training.start()
    batches, engine = training.views.iterate(training.place), training.engine

    def step(index):
        output = engine(next(batches))
        engine.backward(output)
        return engine.step(Step(index, 3)).loss

    def parameters():
        """What this rank holds of each: all of it, or at stage 3 its share."""
        every = training.objective.named_parameters()
        return {name: getattr(parameter, "ds_tensor", parameter).detach().clone() for name, parameter in every}

    step(0)
    before = parameters()
    spoilt(engine, next(batches), fault)
    try:
        engine.step(Step(1, 3))
        error = None
    except NumericError as raised:
        error = type(raised)
    same = all(torch.equal(value, before[name]) for name, value in parameters().items())
    found = {"overflow": error is Overflow, "stopped": error is not None, "same": same}
    return found | ({"next": float(step(1))} if error is Overflow else {})


def gradients(training):
    from deepspeed.utils import safe_get_full_grad

    training.start()
    output = training.engine(next(training.views.iterate(training.place)))
    training.engine.backward(output)
    return {name: safe_get_full_grad(p).clone() for name, p in training.objective.named_parameters()}


def child(number, world, folder):
    with met(number, world, folder):
        for stage in STAGES:
            for precision in PRECISIONS:
                values = SMALL | {"cl.train.precision": f"'{precision}'"}
                name = f"{stage}-{precision}-{number}"
                torch.save(gradients(smooth(sharded("simclr", stage, values))), folder / f"gradients-{name}.pt")
                found = {fault: tried(sharded("simclr", stage, values), fault) for fault in FAULTS}
                torch.save(found, folder / f"faults-{name}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes(__file__, WORLD, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_not_finite_on_one_rank_changes_nothing_on_any(ranks, stage, precision, fault):
    for number in range(WORLD):
        found = torch.load(ranks / f"faults-{stage}-{precision}-{number}.pt", weights_only=True)[fault]
        assert found["stopped"] and found["same"], number
        assert found["overflow"] == (fault == "nan gradient")
        assert not found["overflow"] or 0 < found["next"] < 10, "another batch may follow"


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_is_near_float32_and_not_it(ranks, stage):
    found = [torch.load(ranks / f"gradients-{stage}-{each}-0.pt", weights_only=True) for each in PRECISIONS]
    whole, rounded = (torch.cat([each.flatten() for each in one.values()]).double() for one in found)
    apart = float((whole - rounded).norm() / whole.norm())
    assert 1e-4 < apart < 0.1


if __name__ == "__main__":
    child(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
