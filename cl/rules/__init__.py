"""Which components go together. Every refusal is one function: a sentence, and the binding that would mend it.

A rule is given the built training and yields what is wrong with it. It reads what components say of themselves
(`provides`, `needs`, sizes), never what they are called, and no data is open yet.
"""

import logging

from cl.errors import ConfigError
from cl.rules import hooks, networks, run, terms, towers
from cl.rules.towers import collapse
from cl.train import Training

logger = logging.getLogger(__name__)

RULES = (
    run.processes,
    run.views,
    terms.embeddings,
    terms.terms,
    terms.idle,
    hooks.hooks,
    hooks.enqueued,
    hooks.repeated,
    networks.evaluations,
    run.batch,
    run.whitening,
    run.pieces,
    terms.widths,
    terms.queue,
    networks.networks,
    terms.contrasts,
    towers.untrained,
    run.optimizer,
    run.rates,
)
"""In order: the first refusal is the one that is reported."""


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
