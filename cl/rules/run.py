"""How a run is carried out: its processes, views, batches, pieces and optimizer."""

import re
from collections.abc import Iterator

from torch import nn

from cl.components import Step
from cl.encoders.decorrelated import DecorrelatedBatchNorm
from cl.engines.pieces import smallest_piece
from cl.optim.rules import set_rates
from cl.rules.needs import missing
from cl.train import Training

LOOKS = 100
"""Steps, spread over the run, at which the rate is not to be below 0."""


def processes(training: Training) -> Iterator[str]:
    """Every process has its share of the batch, and engine and optimizer are made for several."""
    world, engine, source = training.place.world, training.engine, training.views
    if world > 1 and not engine.distributed:
        yield (
            f"{world} processes were started, and {type(engine).__name__} is for one: each would train by itself. "
            "Add --gin gin/scale/zero1.gin."
        )
    if source.batch % world:
        yield (
            f"{type(source).__name__}.batch {source.batch} is over all processes, and not a multiple of {world}. "
            f"Bind it to {source.batch // world * world or world}."
        )
    if engine.sharded and training.optimizer.by_layer:
        yield (
            f"{type(training.optimizer).__name__} scales every layer's step by its norm, and under ZeRO from stage 1 "
            "on an optimizer sees flat shares without layers. Bind DeepSpeedEngine.stage = 0, or another "
            "cl.train.optimizer."
        )


def views(training: Training) -> Iterator[str]:
    """The encoder looks at all views that are made, and all it looks at are made."""
    source, encoder = training.views, training.objective.encoder
    yield from missing(source.needs, source.provides, source, "its data")
    absent = encoder.views - set(range(source.views))
    if absent:
        yield (
            f"The encoder wants view {min(absent)}; {type(source).__name__} makes {source.views}, numbered from 0. "
            f"Give {type(source).__name__}.transforms one entry a view, or the encoder fewer views."
        )
    idle = set(range(source.views)) - encoder.views
    if idle:
        yield (
            f"View {min(idle)} is made for every batch and no part of the encoder looks at it. "
            f"Take it out of {type(source).__name__}.transforms, or let the encoder use it."
        )


def batch(training: Training) -> Iterator[str]:
    """A batch whose samples are the negatives has at least two."""
    for name, term in training.objective.terms.items():
        alone = "negatives of the batch alone" in term.provider.provides
        if "negatives" in term.loss.needs and alone and training.views.batch < 2:
            yield (
                f"Term {name!r} takes its negatives from the batch, and a batch of 1 has none. "
                f"Bind {type(training.views).__name__}.batch to 2 or more."
            )


def whitening(training: Training) -> Iterator[str]:
    """Whitening a group of features has twice as many rows."""
    encoder = training.objective.encoder
    # At most: a head may also get the views one by one.
    world = training.place.world
    samples = smallest_piece(training.views.batch // world, training.engine.piece) * world
    rows = samples * training.views.views
    for module in encoder.modules() if isinstance(encoder, nn.Module) else ():
        if isinstance(module, DecorrelatedBatchNorm) and rows < 2 * module.group:
            source = type(training.views).__name__
            yield (
                f"{samples} samples at a time give a head at most {rows} rows, and DecorrelatedBatchNorm needs "
                f"{2 * module.group} to whiten groups of {module.group}. Bind a larger {source}.batch (or the "
                "engine's piece), or a DecorrelatedBatchNorm.group of at most half the rows."
            )
            return


def pieces(training: Training) -> Iterator[str]:
    """Keys that are encoded once have no gradient."""
    encoder, engine = training.objective.encoder, training.engine
    has_keys = any(encoder.layout(name)[1] is not None for name in encoder.embeddings)
    share = training.views.batch // training.place.world
    cut = smallest_piece(share, engine.piece) < share
    if cut and has_keys and "keys without gradient" not in encoder.provides:
        who = type(engine).__name__
        yield (
            f"{who}.piece cuts the batch, and the gradient of {type(encoder).__name__}'s keys would be lost: keys are "
            f"encoded once. Take out {who}.piece, or let keys have no gradient: Predict.stop_gradient = True."
        )


def optimizer(training: Training) -> Iterator[str]:
    """Settings and rules make an optimizer of the parameters there are."""
    try:
        training.optimizer.build(training.objective)
    except re.error as error:
        yield f"Rule.pattern {error.pattern!r} is no regular expression: {error.msg}. Correct it."
    except ValueError as error:
        yield f"{type(training.optimizer).__name__} cannot be built: {str(error).rstrip('.')}."


def rates(training: Training) -> Iterator[str]:
    """At some step something is trained by a rate above 0, and at none by one below."""
    optimizer = training.optimizer
    who, groups = type(optimizer).__name__, optimizer.build(training.objective).param_groups

    def of(index: int) -> list[float]:
        set_rates(groups, optimizer.lr, training.schedule, Step(index, training.steps))
        return [group["lr"] for group in groups]

    some = range(0, training.steps, max(training.steps // LOOKS, 1))
    below = next((index for index in (*some, training.steps - 1) if min(of(index)) < 0), None)
    if below is not None:
        yield (
            f"The learning rate is below 0 at step {below + 1}, and would make the loss higher. Look at "
            f"cl.train.schedule, whose values are factors of {who}.lr."
        )
    elif all(max(of(index)) <= 0 for index in range(training.steps)):  # which ends at the first step, nearly always
        yield (
            f"No parameter has a learning rate above 0 at any step, and nothing would be learned. Bind {who}.lr above "
            f"0, or look at cl.train.schedule and the Rule.rate of {who}.rules."
        )
