"""What of the encoder is trained, and what keeps its rows apart."""

from collections.abc import Iterator

from torch import nn

from cl import trial
from cl.components import Encoder
from cl.encoders.predictors import Predictors
from cl.encoders.towers import Towers
from cl.train import Training


def untrained(training: Training) -> Iterator[str]:
    """Whatever of a tower is trained makes rows that some loss has a gradient for."""
    encoder = training.objective.encoder
    towers = _towers(encoder)
    if towers is None:
        return
    live: set[tuple[str, int]] = set()
    for term in training.objective.terms.values():
        live |= {(term.embedding, view) for view in trial.reached(training, term) or ()}
    for name, tower in towers.towers.items():
        heads: dict[str, set[tuple[str, int]]] = {}
        for view, maker, head, embedding in towers.routes:
            if maker == name:
                heads.setdefault(head, set()).add((embedding, view))
        for head, part in tower.get_submodule("heads").named_children():
            if head not in heads and any(parameter.requires_grad for parameter in part.parameters()):
                yield (
                    f"The head {head!r} of the tower {name!r} is to be trained, and no route leads to it: it would "
                    "stay as it was drawn. Take it out of Tower.heads, or give it a route."
                )
        some = any(rows & live for rows in heads.values())
        for head, rows in heads.items():
            part = tower.get_submodule(f"heads.{head}") if some else tower
            if not rows & live and any(parameter.requires_grad for parameter in part.parameters()):
                what = f"The head {head!r} of the tower {name!r}" if some else f"The tower {name!r}"
                yield (
                    f"{what} is to be trained, and no loss has a gradient for its rows, view "
                    f"{', '.join(str(view) for _, view in sorted(rows))} of {min(rows)[0]!r}: it would stay as it was "
                    "drawn. Let a term be about them, and their view a query (Momentum.query_views = None and "
                    "InBatch.queries = None are all views), take their routes out, or bind the tower's "
                    "Tower.frozen = True."
                )
                break


def collapse(training: Training) -> Iterator[str]:
    """Something keeps every term's embeddings apart: a loss over the same towers, or a predictor and frozen keys."""
    encoder, terms = training.objective.encoder, training.objective.terms
    makers = {name: _makers(encoder, term.embedding) for name, term in terms.items()}
    spread = [name for name, term in terms.items() if term.loss.spreads and term.weight > 0]
    kept = set[str]().union(*(makers[name] for name in spread))
    modules = encoder.modules() if isinstance(encoder, nn.Module) else ()
    predictors = next((module for module in modules if isinstance(module, Predictors)), None)
    for name, term in terms.items():
        if name in spread or makers[name] & kept:
            continue
        here = encoder.provides
        if predictors is not None and term.embedding not in predictors:
            here -= {"predictor"}
        for capability, remedy in {
            "keys without gradient": "wrap the encoder in @Momentum()",
            "predictor": f"bind Momentum.predictors = {{{term.embedding!r}: @predictor/MLP()}}, and "
            "predictor/MLP.widths from the embedding's width back to it",
        }.items():
            if capability not in here:
                yield (
                    f"Nothing keeps the embeddings of term {name!r} apart: no loss over their towers does, and the "
                    f"encoder has no {capability} that would make up for it. To mend it, {remedy}, or choose a loss "
                    "that does, such as @InfoNCE()."
                )


def _towers(encoder: Encoder) -> Towers | None:
    """What makes the rows that are trained, in whatever it is wrapped; None: an encoder of another kind."""
    modules = encoder.modules() if isinstance(encoder, nn.Module) else ()
    found = next((module for module in modules if isinstance(module, Towers)), None)
    return found if found is not None and found.embeddings == encoder.embeddings else None


def _makers(encoder: Encoder, embedding: str) -> set[str]:
    """The towers that make an embedding's rows."""
    towers = _towers(encoder)
    if towers is None:
        return {str(number) for number in range(encoder.modalities)}
    return {maker for _, maker, _, name in towers.routes if name == embedding}
