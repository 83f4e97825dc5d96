"""What would collapse is refused, or asked for by name."""

import logging
import re

import pytest
from tiny import tower
from torch import nn
from wirings import (
    EMA,
    align,
    momentum,
    predict,
    training,
    two_towers,
)

from cl.encoders.momentum import Momentum
from cl.encoders.siamese import siamese
from cl.errors import ConfigError
from cl.losses.info_nce import InfoNCE
from cl.losses.vicreg import VICReg
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.objective import Term
from cl.rules import check

COLLAPSING = {
    "a tower of its own": (
        lambda **kw: training(
            two_towers(),
            {"a": Term(InBatch(True), InfoNCE(0.1), embedding="one"), "b": align(embedding="other")},
            **kw,
        ),
        r"@Momentum\(\)",
        2,
    ),
    "a predictor of another embedding": (
        lambda **kw: training(
            Momentum(two_towers(), {"one": nn.Linear(4, 4)}),
            {"a": align(embedding="one"), "b": align(embedding="other")},
            [EMA],
            **kw,
        ),
        r"Momentum\.predictors = {'other'",
        1,
    ),
    "nothing at all": (lambda **kw: training(siamese(tower()), align(), **kw), r"@Momentum\(\)", 2),
    "no predictor": (lambda **kw: training(momentum(), align(), [EMA], **kw), r"Momentum\.predictors = ", 1),
    "SimSiam without stop-gradient": (
        lambda **kw: training(predict(stop_gradient=False), align(), **kw),
        r"no keys without gradient",
        1,
    ),
    "VICReg without its variance": (
        lambda **kw: training(siamese(tower(), unit_norm=False), Term(PositivesOnly(), VICReg(variance=0.0)), **kw),
        r"@Momentum\(\)",
        2,
    ),
}


@pytest.mark.parametrize("name", COLLAPSING)
def test_what_would_collapse_is_refused_or_asked_for_by_name(name, caplog):
    build, message, warnings = COLLAPSING[name]
    with pytest.raises(
        ConfigError, match=rf"keeps the embeddings of term '\w+' apart.*{message}.*cl\.train\.allow_collapse = True"
    ):
        check(build())
    with caplog.at_level(logging.WARNING):
        check(build(allow_collapse=True))
    assert len(caplog.records) == warnings
    assert re.search(message, caplog.records[0].message) and "allow_collapse" not in caplog.text
