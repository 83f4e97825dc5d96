"""What is moved and filled after a step."""

import itertools
from collections.abc import Iterator

from cl.components import Capability
from cl.hooks.enqueue import Enqueue
from cl.hooks.monitor import CollapseMonitor
from cl.hooks.update_centre import UpdateCentre
from cl.hooks.update_momentum import UpdateMomentum
from cl.negatives.ring import Remembering
from cl.rules.needs import missing
from cl.train import Training

ONCE = {
    UpdateMomentum: "every step would move the copy twice",
    UpdateCentre: "every step would move the centre twice",
    Enqueue: "the queue would hold every key twice",
    CollapseMonitor: "the one's figures would hide the other's",
}
"""Hooks of which two do what is to be done once, and what would come of it."""


def hooks(training: Training) -> Iterator[str]:
    """Hooks find what they move, and what has to be moved has a hook that does."""
    encoder, terms = training.objective.encoder, training.objective.terms.values()
    provided = encoder.provides.union(*(term.provider.provides | term.loss.provides for term in terms))
    for hook in training.hooks:
        yield from missing(hook.needs, provided, hook, "the objective")
    wanted = frozenset[Capability]().union(*(hook.needs for hook in training.hooks))
    if "momentum" in provided - wanted:
        yield "The momentum copy is never moved: its keys would stay random. Add @UpdateMomentum() to cl.train.hooks."
    if "queue" in provided - wanted:
        yield "The queue is never filled: nothing of earlier steps would be met. Add @Enqueue() to cl.train.hooks."
    if "centre" in provided - wanted:
        yield "The centre is never moved: one prototype would take all. Add @UpdateCentre() to cl.train.hooks."


def enqueued(training: Training) -> Iterator[str]:
    """Views that are enqueued are keys."""
    encoder = training.objective.encoder
    for hook in training.hooks:
        for name, term in training.objective.terms.items():
            if not isinstance(hook, Enqueue) or not isinstance(term.provider, Remembering):
                continue
            q_views, k_views = encoder.layout(term.embedding)
            keys = q_views if k_views is None else k_views
            if hook.views is not None and not hook.views:
                yield (
                    "Enqueue.views names no view, and the queue would stay empty. Bind Enqueue.views to some of "
                    f"{', '.join(map(str, keys))}, or leave it out for all."
                )
            if len(set(hook.views or ())) < len(hook.views or ()):
                yield "Enqueue.views names a view twice, and the queue would hold its keys twice. Name it once."
            if absent := set(hook.views or ()) - set(keys):
                yield (
                    f"Enqueue.views has view {min(absent)}, and the keys of term {name!r} are views "
                    f"{', '.join(map(str, keys))}. Bind Enqueue.views to some of them, or leave it out for all."
                )


def repeated(training: Training) -> Iterator[str]:
    """What a step moves, fills or logs, it does once."""
    for kind, why in ONCE.items():
        for one, other in itertools.combinations([hook for hook in training.hooks if isinstance(hook, kind)], 2):
            parts = [set(each.views) for each in (one, other) if isinstance(each, Enqueue) and each.views]
            if not (len(parts) == 2 and parts[0].isdisjoint(parts[1])):
                yield f"cl.train.hooks has @{kind.__name__}() twice: {why}. Take one of them out."
