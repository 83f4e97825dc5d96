"""Trainings of real data that are run as if there were no rule."""

import torch
from tiny import Noise, Pictures

from cl.components import Step
from cl.engines.local import LocalEngine
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD
from cl.rules import RULES, collapse
from cl.run_folder import RunFolder
from cl.train import Training
from cl.views.groups import BySample
from cl.views.memory import MemoryViews


def built(
    encoder,
    provider,
    loss,
    hooks=(),
    batch=8,
    group=None,
    count=2,
    embedding="z",
    piece=None,
    evaluations=(),
    optimizer=None,
    weight=1.0,
    transform=None,
    schedule=None,
    data=None,
):
    """The training, for real data."""
    source = MemoryViews(
        data or Pictures(16), batch, [transform or Noise()] * count, BySample() if group is None else group
    )
    objective = Objective(encoder, {"only": Term(provider, loss, weight, embedding)})
    engine, optimizer = LocalEngine(piece=piece), optimizer or SGD(0.1)
    return Training(
        objective,
        source,
        optimizer,
        schedule or Constant(),
        engine,
        9,
        hooks,
        evaluations=evaluations,
        precision="float32",
    )


def trained(training, folder, steps=2):
    """The state after some steps."""
    training.start()
    batches, run = training.views.iterate(training.place), RunFolder(folder / "run", resume=False)
    for index in range(steps):
        training.step(Step(index, steps), batches, run)
    return {name: value.clone() for name, value in training.objective.state_dict().items()}


def refuses(rule, training):
    """That it is this rule that refuses, and no other one before it."""
    rules = [*RULES, collapse]
    first = next(each for each in rules if list(each(training)))
    assert first.__name__ == rule
    return training


def same(one, other):
    return {name for name in one if name in other and torch.equal(one[name], other[name])}


def with_seed(make):
    torch.manual_seed(0)
    return make()
