"""What a term makes of made-up rows, with providers, losses and encoders of a user's own too."""

import pytest
import torch
from tiny import tower
from torch import nn
from wirings import align, info_nce, training, two_heads, two_towers, views

from cl import distributed, rules, trial
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.errors import ConfigError
from cl.losses.decoupled import DecoupledInfoNCE
from cl.losses.hard_negatives import HardNegativeInfoNCE
from cl.losses.info_nce import InfoNCE
from cl.negatives import in_batch, over_ranks
from cl.negatives.in_batch import InBatch
from cl.objective import Term
from cl.rules import check
from cl.views.groups import ByLabel


class Unfit(nn.Module):
    """A loss of a user's own, with a layer of a width that nothing has."""

    provides = needs = frozenset()
    spreads = True

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, contrast):
        return self.layer(contrast.q).sum()


class Large(Unfit):
    """One that wants many rows."""

    def forward(self, contrast):
        return contrast.q[:40].reshape(8, 20).sum()


class Hungry(Unfit):
    """One that wants a whole batch."""

    def forward(self, contrast):
        return contrast.q.sum(dim=1).topk(200).values.sum()


class Ramped(Unfit):
    """One that begins with nothing."""

    ramp = 0.0

    def forward(self, contrast):
        return contrast.q.sum() * self.ramp


class Writing(Unfit):
    """One that scales its rows in place, as those of a network may be."""

    def forward(self, contrast):
        return contrast.q.mul_(2).sum()


class Fused(nn.Module):
    """An encoder of a user's own around one of ours, with an embedding of its own of both."""

    def __init__(self):
        super().__init__()
        self.inner = two_towers()
        self.provides = self.inner.provides
        self.embeddings = frozenset({"z"})
        self.views = frozenset({0, 1})
        self.modalities = 1

    def layout(self, embedding):
        return (0, 1), None

    def width(self, embedding):
        return 8

    def forward(self, *_):
        raise AssertionError("a network ran")

    queries = keys = key_order = features = embed = trunks = forward


TAKEN = {
    "a loss of many rows": lambda: training(siamese(tower()), Term(InBatch(True), Large()), source=views(batch=64)),
    "a loss of a whole batch": lambda: training(
        siamese(tower()), Term(InBatch(True), Hungry()), source=views(batch=512)
    ),
    "a loss that begins with nothing": lambda: training(siamese(tower()), Term(InBatch(True), Ramped())),
    "a loss that writes": lambda: training(siamese(tower()), Term(InBatch(True), Writing())),
    "an encoder around one": lambda: training(Fused(), info_nce(InBatch(True))),
    "a term that is to be high": lambda: training(
        two_heads(), {"a": info_nce(InBatch(True)), "b": align(weight=-0.1, embedding="y")}
    ),
    "two samples of labels": lambda: training(
        siamese(tower()), Term(InBatch(True), DecoupledInfoNCE(0.1)), source=views(batch=2, group=ByLabel())
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_made_up_rows_cannot_tell_is_not_refused(name):
    check(TAKEN[name]())


def test_a_loss_that_cannot_multiply_is_refused():
    with pytest.raises(ConfigError, match=r"InBatch and Unfit fail on made-up rows: mat1 and mat2.*Term\.loss"):
        check(training(siamese(tower()), Term(InBatch(True), Unfit())))


def test_a_loss_that_is_to_be_high_keeps_nothing_apart():
    terms = {"a": Term(InBatch(True), InfoNCE(0.1), weight=-1.0), "b": align(embedding="y")}
    with pytest.raises(ConfigError, match="Nothing keeps the embeddings of term 'a' apart"):
        check(training(two_heads(), terms))


def test_checking_runs_no_network():
    class Loud(nn.Module):
        def forward(self, x):
            raise AssertionError("a network ran")

    check(training(siamese(Tower(Loud(), {"z": nn.Linear(4, 4)})), info_nce(InBatch(True))))
    assert torch.is_grad_enabled()


@pytest.fixture
def two_ranks(monkeypatch):
    """This process as rank 1 of two, which has gathered what rank 0 would have."""

    def gathered(rows):
        return torch.cat([rows - 3 if rows.dtype == torch.int64 else rows, rows])

    for module in (distributed, in_batch, over_ranks):
        monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(trial, "rank", lambda: 1)
    monkeypatch.setattr(trial, "largest_over_ranks", lambda number: number)
    monkeypatch.setattr(over_ranks, "mean_over_ranks", lambda value: value)
    monkeypatch.setattr("cl.types.gather", gathered)


def test_made_up_samples_of_other_ranks_are_others(two_ranks):
    assert not list(rules.terms.contrasts(training(siamese(tower()), Term(InBatch(True), HardNegativeInfoNCE(0.1)))))


def test_a_peer_that_was_lost_is_no_mistake_of_the_configuration(monkeypatch):
    tried = []

    def lost(*given):
        tried.append(given)
        raise RuntimeError("[gloo] Connection closed by peer")

    monkeypatch.setattr(trial, "_tried", lost)
    with pytest.raises(RuntimeError, match="Connection closed"):
        check(training(siamese(tower()), info_nce(InBatch(True))))
    assert len(tried) == 1, "nobody is waited for again"


class Stateful(nn.Module):
    """A loss of a user's own, with a layer of the embedding's width, that counts and draws."""

    provides = frozenset()
    needs = frozenset({"negatives"})
    spreads = True

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, contrast):
        self.calls += 1
        return self.layer(contrast.q).sum() + torch.randn(())


def test_trying_a_loss_leaves_no_trace():
    loss = Stateful()
    built = training(siamese(tower()), Term(InBatch(True), loss))
    state = torch.get_rng_state()
    check(built)
    assert loss.calls == 0 and torch.equal(torch.get_rng_state(), state)
