"""Which components go together. Every refusal is one function: a sentence, and the binding that would mend it.

A rule is given the built training and yields what is wrong with it. It reads what components say of themselves
(`provides`, `needs`, sizes), never what they are called, and no data is open yet.
"""

import logging
import re
from collections.abc import Iterator

from torch import nn

from cl import trial
from cl.components import Capability, Encoder, OfWidth
from cl.encoders.decorrelated import DecorrelatedBatchNorm
from cl.encoders.predictors import Predictors
from cl.encoders.towers import Towers
from cl.engines.pieces import smallest_piece
from cl.errors import ConfigError
from cl.hooks.enqueue import Enqueue
from cl.negatives.ring import Remembering
from cl.objective import Term
from cl.processes import of_a_peer
from cl.train import Training

logger = logging.getLogger(__name__)

REMEDY: dict[Capability, str] = {
    "momentum": "wrap the encoder: Objective.encoder = @Momentum(), with @UpdateMomentum() in cl.train.hooks; or take "
    "out what needs it",
    "queue": "wrap the provider: Term.provider = @Queue(), or take @Enqueue() out of cl.train.hooks",
    "keys without gradient": "bind Predict.stop_gradient = True, or wrap the encoder: Objective.encoder = @Predict()",
    "predictor": "bind Momentum.predictors or Predict.predictors",
    "paired": "bind Term.provider = @PositivesOnly()",
    "keys": "choose a provider that looks at keys, such as @PositivesOnly()",
    "negatives of the batch alone": "bind Term.provider = @InBatch()",
    "negatives": "bind Term.provider = @InBatch(), or wrap the provider in @Queue()",
    "unit norm": "bind Siamese.unit_norm = True, or Dual.unit_norm or Towers.unit_norm",
    "free length": "bind Siamese.unit_norm = False, or Dual.unit_norm or Towers.unit_norm",
    "centre": "bind Term.loss = @SelfDistillation(), or take @UpdateCentre() out of cl.train.hooks",
    "groups of a caption": "group the views by caption: bind MemoryViews.group (or StreamViews.group) = @ByCaption()",
    "groups of a label": "group the views by label: bind MemoryViews.group (or StreamViews.group) = @ByLabel()",
    "labels": "use data with labels, or group by sample: @BySample()",
    "captions": "use data with captions, or drop what reads them",
}


def check(training: Training) -> None:
    """Compares what components need with what the others provide.

    Raises:
        ConfigError: the first pair that cannot work. What only guards against collapse is a warning under
            `cl.train.allow_collapse`.
    """
    for rule in RULES:
        for message in rule(training):
            raise ConfigError(message)
    for message in collapse(training):
        if not training.allow_collapse:
            raise ConfigError(f"{message} To run it all the same, bind cl.train.allow_collapse = True.")
        logger.warning(message)


def _missing(needs: frozenset[Capability], provides: frozenset[Capability], who: object, where: str) -> Iterator[str]:
    for capability in sorted(needs - provides):
        yield (
            f"{type(who).__name__} needs {capability!r}, which {where} does not provide. "
            f"To mend it, {REMEDY[capability]}."
        )


def _processes(training: Training) -> Iterator[str]:
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


def _views(training: Training) -> Iterator[str]:
    """The encoder looks at all views that are made, and all it looks at are made."""
    source, encoder = training.views, training.objective.encoder
    yield from _missing(source.needs, source.provides, source, "its data")
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


def _embeddings(training: Training) -> Iterator[str]:
    """A term is about an embedding that the encoder makes."""
    names = training.objective.encoder.embeddings
    for name, term in training.objective.terms.items():
        if term.embedding not in names:
            yield (
                f"Term {name!r} is about the embedding {term.embedding!r}, and the encoder makes {sorted(names)}. "
                "Bind Term.embedding to one of them, or name the tower's head so."
            )


def _terms(training: Training) -> Iterator[str]:
    """What a provider and a loss need, the encoder, the views and the provider have."""
    encoder = training.objective.encoder
    source = type(training.views).__name__
    for name, term in training.objective.terms.items():
        if not abs(term.weight) > 0:
            yield (
                f"Term {name!r} has the weight {term.weight:g}, and nothing would be learned of it. Bind its "
                "Term.weight to another, or take it out of Objective.terms."
            )
        here = encoder.provides | training.views.provides
        where = f"{type(encoder).__name__} with {source} (term {name!r})"
        yield from _missing(term.provider.needs, here, term.provider, where)
        here = here | term.provider.provides
        yield from _missing(term.loss.needs, here, term.loss, f"{type(term.provider).__name__} of {where}")


def _idle(training: Training) -> Iterator[str]:
    """A queue, groups and keys have somebody who looks at them."""
    terms: dict[str, Term] = training.objective.terms
    for name, term in terms.items():
        if "negatives" not in term.loss.needs and "queue" in term.provider.provides:
            yield (
                f"Term {name!r}: {type(term.loss).__name__} looks at pairs alone, and the queue would change nothing. "
                "Bind Term.provider = @PositivesOnly() and take @Enqueue() out of cl.train.hooks, or choose a loss "
                "that looks at negatives, such as @InfoNCE()."
            )
        makes_keys = training.objective.encoder.layout(term.embedding)[1] is not None
        if makes_keys and "keys" not in term.provider.provides:
            encoder = type(training.objective.encoder).__name__
            yield (
                f"Term {name!r}: {encoder} makes keys for every batch, and {type(term.provider).__name__} looks at "
                f"none. Bind Objective.encoder to what {encoder} wraps, or choose a provider that looks at keys."
            )
    if training.views.provides & trial.SEVERAL and not any("negatives" in term.loss.needs for term in terms.values()):
        source = type(training.views).__name__
        yield (
            f"No term's loss looks at groups, only at pairs of one sample's views, and {source}.group would change "
            f"nothing. Bind {source}.group = @BySample(), or choose a loss that does, such as @InfoNCE()."
        )


def _hooks(training: Training) -> Iterator[str]:
    """Hooks find what they move, and what has to be moved has a hook that does."""
    encoder, terms = training.objective.encoder, training.objective.terms.values()
    provided = encoder.provides.union(*(term.provider.provides | term.loss.provides for term in terms))
    for hook in training.hooks:
        yield from _missing(hook.needs, provided, hook, "the objective")
    wanted = frozenset[Capability]().union(*(hook.needs for hook in training.hooks))
    if "momentum" in provided - wanted:
        yield "The momentum copy is never moved: its keys would stay random. Add @UpdateMomentum() to cl.train.hooks."
    if "queue" in provided - wanted:
        yield "The queue is never filled: nothing of earlier steps would be met. Add @Enqueue() to cl.train.hooks."
    if "centre" in provided - wanted:
        yield "The centre is never moved: one prototype would take all. Add @UpdateCentre() to cl.train.hooks."


def _enqueued(training: Training) -> Iterator[str]:
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
            if absent := set(hook.views or ()) - set(keys):
                yield (
                    f"Enqueue.views has view {min(absent)}, and the keys of term {name!r} are views "
                    f"{', '.join(map(str, keys))}. Bind Enqueue.views to some of them, or leave it out for all."
                )


def _evaluations(training: Training) -> Iterator[str]:
    """Held-out data has what is measured on it."""
    for evaluation in training.evaluations:
        for role, data in evaluation.data.items():
            yield from _missing(evaluation.needs, data.provides, evaluation, f"its {role} data")


def _batch(training: Training) -> Iterator[str]:
    """A batch whose samples are the negatives has at least two."""
    for name, term in training.objective.terms.items():
        alone = "negatives of the batch alone" in term.provider.provides
        if "negatives" in term.loss.needs and alone and training.views.batch < 2:
            yield (
                f"Term {name!r} takes its negatives from the batch, and a batch of 1 has none. "
                f"Bind {type(training.views).__name__}.batch to 2 or more."
            )


def _whitening(training: Training) -> Iterator[str]:
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


def _pieces(training: Training) -> Iterator[str]:
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


def _widths(training: Training) -> Iterator[str]:
    """Rows of a provider or a loss are as wide as the embeddings."""
    for name, term in training.objective.terms.items():
        width = training.objective.encoder.width(term.embedding)
        for part in (term.provider, term.loss):
            if isinstance(part, OfWidth) and width not in (None, part.dim):
                who = type(part).__name__
                yield (
                    f"Term {name!r}: {who}.dim is {part.dim} and the embedding {term.embedding!r} is {width} wide. "
                    f"Bind {who}.dim = {width}."
                )


def _queue(training: Training) -> Iterator[str]:
    """A queue holds at least one view of a step's keys."""
    for name, term in training.objective.terms.items():
        provider = term.provider
        if not isinstance(provider, Remembering):
            continue
        who, size = type(provider).__name__, provider.ring.size
        if size < training.views.batch and not provider.shorter_than_batch:
            yield (
                f"Term {name!r}: a queue of {size} does not hold one batch's keys, {training.views.batch}. "
                f"Bind a larger {who}.size, or ask for it by {who}.shorter_than_batch = True."
            )


def _contrasts(training: Training) -> Iterator[str]:
    """Providers and losses take what they will be given, as far as made-up samples show."""
    for name, term in training.objective.terms.items():
        try:
            if trial.reached(training, term) is None:
                queries, keys = training.objective.encoder.layout(term.embedding)
                yield (
                    f"Term {name!r}: {type(term.provider).__name__} finds nothing to contrast between query views "
                    f"{queries} and key views {queries if keys is None else keys}. Give the encoder views that "
                    "differ, such as Momentum.query_views = (0,) and Momentum.key_views = (1,)."
                )
        except (ValueError, ConfigError) as error:
            yield f"Term {name!r}: {str(error).rstrip('.')}."
        except RuntimeError as error:
            if of_a_peer(error):
                raise
            yield (
                f"Term {name!r}: {type(term.provider).__name__} and {type(term.loss).__name__} fail on made-up rows: "
                f"{str(error).rstrip('.')}. Bind Term.provider or Term.loss to another."
            )


def _untrained(training: Training) -> Iterator[str]:
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


def _optimizer(training: Training) -> Iterator[str]:
    """Settings and rules make an optimizer of the parameters there are."""
    try:
        training.optimizer.build(training.objective)
    except (ValueError, re.error) as error:
        yield f"{type(training.optimizer).__name__} cannot be built: {str(error).rstrip('.')}."


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


RULES = (
    _processes,
    _views,
    _embeddings,
    _terms,
    _idle,
    _hooks,
    _enqueued,
    _evaluations,
    _batch,
    _whitening,
    _pieces,
    _widths,
    _queue,
    _contrasts,
    _untrained,
    _optimizer,
)
"""In order: the first refusal is the one that is reported."""
