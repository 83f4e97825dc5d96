"""Whether views, networks and evaluations fit, as far as made-up samples show."""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cl import rehearsal
from cl.components import Encoder, OfWidth
from cl.distributed import largest_over_ranks
from cl.encoders.norms import SplitBatchNorm
from cl.engines.pieces import smallest_piece
from cl.errors import ClError
from cl.evaluation.knn import KNN
from cl.evaluation.probe import Probe
from cl.evaluation.retrieval import Retrieval
from cl.evaluation.zero_shot import ZeroShot
from cl.processes import of_a_peer
from cl.rules.needs import missing
from cl.train import Training
from cl.types import Embeddings

logger = logging.getLogger(__name__)

LOOKED_AT = {"view": "pictures", "image_view": "pictures", "text_view": "texts"}
"""Parameters of our evaluations that name a view, and of what it is one."""


def networks(training: Training) -> Iterator[str]:
    """Made-up samples pass the networks, and come out as finite rows of the width that others count on."""
    views = rehearsal.crops(training.views)
    if largest_over_ranks(int(views is None)):  # of any rank: encoders may exchange rows
        views = None
    yield from _looked_at(training, views)
    if views is None:
        return
    share, failed = training.views.batch // training.place.world, []
    for more in (False, True):
        try:
            made = rehearsal.crops(training.views, min(share, rehearsal.MANY)) if more else views
            found = _finite(training, rehearsal.embedded(training, made or views))
            break
        except Exception as error:  # whatever a network raises
            if isinstance(error, ClError) or of_a_peer(error):
                raise
            failed.append(error)
    else:
        said = (str(failed[0]).strip().splitlines() or [""])[0].rstrip(".")
        message = (
            f"The networks fail on made-up samples, of which {_told(views)}: {type(failed[0]).__name__}: {said}. Look "
            f"at {type(training.views).__name__}.transforms, and at the towers' trunk, heads, mean and std."
        )
        yield from _told_here(training, message)
        return
    for name, term in training.objective.terms.items():
        width = found[term.embedding].q.shape[1]
        for part in (term.provider, term.loss):
            if isinstance(part, OfWidth) and part.dim != width:
                who = type(part).__name__
                yield (
                    f"Term {name!r}: {who}.dim is {part.dim} and the embedding {term.embedding!r} is {width} wide. "
                    f"Bind {who}.dim = {width}."
                )
    yield from _in_training(training)


def evaluations(training: Training) -> Iterator[str]:
    """Held-out data has what is measured on it, and prompts name classes."""
    for evaluation in training.evaluations:
        for role, data in evaluation.data.items():
            yield from missing(evaluation.needs, data.provides, evaluation, f"its {role} data")
        for prompt in evaluation.prompts if isinstance(evaluation, ZeroShot) else ():
            try:
                told = prompt.format("one") != prompt.format("other")
            except (LookupError, ValueError, AttributeError):
                told = False
            if not told:
                yield f"ZeroShot.prompts has {prompt!r}, which names no class. Write {{}} where the name is to go."


def _in_training(training: Training) -> Iterator[str]:
    """Batch normalisation has rows enough for its statistics, as few as pass at a time."""
    encoder, engine, world = training.objective.encoder, training.engine, training.place.world
    share = training.views.batch // world
    count = smallest_piece(share, engine.piece)
    norms = [each for each in _modules(encoder) if isinstance(each, _BatchNorm)]
    few = max((2 * each.splits if isinstance(each, SplitBatchNorm) else 2 for each in norms), default=0)
    if count >= few or (count == 1 and world > 1):  # a row of each rank may be enough for statistics over all
        return
    made = rehearsal.crops(training.views, count)
    if largest_over_ranks(int(made is None)) or made is None:
        return
    try:
        rehearsal.embedded(training, made, trains=True)
    except ValueError as error:
        cut = count < share
        more = f"{type(engine).__name__}.piece" if cut else f"{type(training.views).__name__}.batch"
        message = (
            f"In training as few samples as {count} pass the networks at a time, and those fail: "
            f"{str(error).rstrip('.')}. Bind {more} higher{', or leave it out' if cut else ''}, or take another norm."
        )
        yield from _told_here(training, message)


def _told_here(training: Training, message: str) -> Iterator[str]:
    """A refusal where the networks are tried on the device that they train on; elsewhere a warning."""
    if training.place.device.type == "cpu":
        yield message
    else:
        logger.warning(message)


def _modules(encoder: Encoder) -> Iterator[nn.Module]:
    return encoder.modules() if isinstance(encoder, nn.Module) else iter(())


def _looked_at(training: Training, views: Sequence[Tensor] | None) -> Iterator[str]:
    """Views that evaluations name are there, and of the kind that goes in as them."""
    seen = training.objective.encoder.views
    for evaluation in training.evaluations:
        if not isinstance(evaluation, KNN | Probe | Retrieval | ZeroShot):
            continue
        for parameter, wanted in LOOKED_AT.items():
            number = getattr(evaluation, parameter, None)
            if number is None:
                continue
            name = f"{type(evaluation).__name__}.{parameter}"
            kind = None if views is None or number not in seen else _kind(views[number])
            if number not in seen:
                every = ", ".join(map(str, sorted(seen)))
                yield f"{name} is {number}, and the encoder looks at views {every}. Bind {name} to one of them."
            elif kind not in (None, wanted):
                yield f"{name} is {number}, a view of {kind}. Bind {name} to a view of {wanted}."


def _kind(view: Tensor) -> str | None:
    if view.is_floating_point():
        return "pictures" if view.ndim == 4 else None
    return "texts" if view.ndim == 2 else None


def _finite(training: Training, found: dict[str, Embeddings]) -> dict[str, Embeddings]:
    for term in training.objective.terms.values():
        if not torch.isfinite(found[term.embedding].q).all():
            raise ValueError(f"rows of {term.embedding!r} are not finite")
    return found


def _told(views: Sequence[Tensor]) -> str:
    each = (f"view {number} is {_kind(view) or 'rows'} {tuple(view.shape[1:])}" for number, view in enumerate(views))
    return ", ".join(each)
