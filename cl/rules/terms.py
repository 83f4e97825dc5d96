"""What a term is made of: embedding, provider and loss."""

from collections.abc import Iterator

from cl import trial
from cl.components import OfWidth, is_ours
from cl.errors import ConfigError
from cl.negatives.ring import Remembering
from cl.objective import Term
from cl.processes import of_a_peer
from cl.rules.needs import missing
from cl.train import Training


def embeddings(training: Training) -> Iterator[str]:
    """A term is about an embedding that the encoder makes."""
    names = training.objective.encoder.embeddings
    for name, term in training.objective.terms.items():
        if term.embedding not in names:
            yield (
                f"Term {name!r} is about the embedding {term.embedding!r}, and the encoder makes {sorted(names)}. "
                "Bind Term.embedding to one of them, or name the tower's head so."
            )


def terms(training: Training) -> Iterator[str]:
    """What a provider and a loss need, the encoder, the views and the provider have."""
    encoder = training.objective.encoder
    source = type(training.views).__name__
    if all(term.weight < 0 and is_ours(type(term.loss)) for term in training.objective.terms.values()):
        yield "No term has a weight above 0, so every loss would be made high. Bind Term.weight above 0 for one."
    for name, term in training.objective.terms.items():
        if not abs(term.weight) > 0:
            yield (
                f"Term {name!r} has the weight {term.weight:g}, and nothing would be learned of it. Bind its "
                "Term.weight to another, or take it out of Objective.terms."
            )
        here = encoder.provides | training.views.provides
        where = f"{type(encoder).__name__} with {source} (term {name!r})"
        yield from missing(term.provider.needs, here, term.provider, where)
        here = here | term.provider.provides
        yield from missing(term.loss.needs, here, term.loss, f"{type(term.provider).__name__} of {where}")


def idle(training: Training) -> Iterator[str]:
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


def widths(training: Training) -> Iterator[str]:
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


def queue(training: Training) -> Iterator[str]:
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


def contrasts(training: Training) -> Iterator[str]:
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
