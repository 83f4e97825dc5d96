"""Whether views, networks and evaluations fit, as far as made-up samples show."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cl import rehearsal
from cl.components import OfWidth
from cl.evaluation.zero_shot import ZeroShot
from cl.rules.needs import missing
from cl.train import Training

LOOKED_AT = {"view": True, "image_view": True, "text_view": False}
"""Parameters of evaluations that name a view, and whether it is one of pictures."""


def networks(training: Training) -> Iterator[str]:
    """Made-up samples pass the networks, and come out as finite rows of the width that others count on."""
    views = rehearsal.crops(training.views)
    if views is None:
        return
    try:
        found = rehearsal.embedded(training, views)
    except Exception as error:  # whatever a network raises
        said = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        yield (
            f"The networks fail on two made-up samples, of which {_told(views)}. {type(error).__name__}: {said}. Look "
            f"at {type(training.views).__name__}.transforms, and at the towers' trunk, heads, mean and std."
        )
        return
    for name, term in training.objective.terms.items():
        rows = found[term.embedding].q
        if not torch.isfinite(rows).all():
            yield (
                f"Term {name!r}: of made-up samples the encoder makes rows that are not finite. Look at the towers' "
                "mean and std, and at what its networks begin with."
            )
        for part in (term.provider, term.loss):
            if isinstance(part, OfWidth) and part.dim != rows.shape[1]:
                who = type(part).__name__
                yield (
                    f"Term {name!r}: {who}.dim is {part.dim} and the embedding {term.embedding!r} is {rows.shape[1]} "
                    f"wide. Bind {who}.dim = {rows.shape[1]}."
                )


def evaluations(training: Training) -> Iterator[str]:
    """Held-out data has what is measured on it, and goes in as a view of its kind."""
    encoder = training.objective.encoder
    views = rehearsal.crops(training.views)
    for evaluation in training.evaluations:
        for role, data in evaluation.data.items():
            yield from missing(evaluation.needs, data.provides, evaluation, f"its {role} data")
        for parameter, pictures in LOOKED_AT.items():
            number = getattr(evaluation, parameter, None)
            if number is None:
                continue
            name = f"{type(evaluation).__name__}.{parameter}"
            if number not in encoder.views:
                every = ", ".join(map(str, sorted(encoder.views)))
                yield f"{name} is {number}, and the encoder looks at views {every}. Bind {name} to one of them."
            elif views is not None and views[number].is_floating_point() != pictures:
                kinds = ("texts", "pictures") if pictures else ("pictures", "texts")
                yield f"{name} is {number}, a view of {kinds[0]}. Bind {name} to a view of {kinds[1]}."
        if isinstance(evaluation, ZeroShot):
            yield from _prompts(evaluation)


def _prompts(evaluation: ZeroShot) -> Iterator[str]:
    for prompt in evaluation.prompts:
        try:
            told = prompt.format("one") != prompt.format("other")
        except (LookupError, ValueError):
            told = False
        if not told:
            yield f"ZeroShot.prompts has {prompt!r}, which names no class. Write {{}} where the name is to go."


def _told(views: tuple[Tensor, ...]) -> str:
    kinds = [
        f"view {number} is {'pictures' if view.is_floating_point() else 'tokens'} {tuple(view.shape[1:])}"
        for number, view in enumerate(views)
    ]
    return ", ".join(kinds)
