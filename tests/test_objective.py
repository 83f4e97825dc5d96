import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import pictures, tower, trunk
from torch import nn

from cl.encoders.momentum import Momentum
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.encoders.towers import Towers
from cl.losses.alignment import Alignment
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term
from cl.types import Contrast, Embeddings

WEIGHT = st.floats(-2, 4)


class Fixed(nn.Module):
    """A provider of Contrasts made beforehand."""

    provides = needs = frozenset()

    def __init__(self, *contrasts):
        super().__init__()
        self.contrasts = contrasts

    def forward(self, embeddings: Embeddings):
        return self.contrasts


class FirstNumber(nn.Module):
    """A loss that is told."""

    provides = frozenset()
    needs = frozenset()
    spreads = True

    def forward(self, contrast):
        return contrast.q[0, 0]


def told(rows, value, both_ways=False):
    q, ids = torch.full((rows, 2), value), torch.zeros(rows, 3, dtype=torch.int64)
    return Contrast(q, ids, pool=q, pool_ids=ids, both_ways=both_ways)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-5, 5)), min_size=1, max_size=5))
def test_a_term_is_the_mean_over_all_rows_of_its_contrasts(parts):
    built = Objective(siamese(tower()), {"a": Term(Fixed(*(told(n, value) for n, value in parts)), FirstNumber())})
    expected = sum(n * value for n, value in parts) / sum(n for n, _ in parts)
    assert built(pictures(2)).loss.item() == pytest.approx(expected, abs=1e-5)


def test_both_ways_counts_both_sides_rows():
    provider = Fixed(told(2, 1.0, both_ways=True), told(4, 4.0))
    built = Objective(siamese(tower()), {"a": Term(provider, FirstNumber())})
    assert built(pictures(2)).loss.item() == pytest.approx(2.5)


@given(WEIGHT, WEIGHT)
def test_the_loss_is_the_weighted_sum_of_the_terms(one, other):
    net = Tower(trunk(), {"z": nn.Linear(8, 4), "y": nn.Linear(8, 3)})
    encoder = Towers({"image": net}, [(view, "image", head, head) for view in (0, 1) for head in ("z", "y")])
    terms = {
        "contrast": Term(InBatch(True), InfoNCE(0.5), weight=one),
        "align": Term(PositivesOnly(), Alignment(), weight=other, embedding="y"),
    }
    output = Objective(encoder, terms)(pictures(3))
    z, y = (encoder(pictures(3))[name].q for name in ("z", "y"))
    expected = {
        "contrast": InfoNCE(0.5)(Contrast.pairs(z[:3], z[3:])),
        "align": (y[:3] - y[3:]).square().sum(dim=1).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(output.losses[name], value)
    torch.testing.assert_close(output.loss, one * expected["contrast"] + other * expected["align"])
    assert output.embeddings.keys() == {"z", "y"} and output.loss.shape == ()


def test_byol_is_the_papers_formula():
    """Both directions summed, hence the weight 2: 2 - 2 cos each (Grill et al. 2020, equation 2)."""
    encoder = Momentum(siamese(tower()), predictors={"z": nn.Linear(4, 4)})
    views = pictures(5)
    output = Objective(encoder, {"byol": Term(PositivesOnly(), Alignment(), weight=2.0)})(views)
    expected = 0.0
    for q_view, k_view in ((0, 1), (1, 0)):
        q = encoder.predictors["z"](encoder.online.rows(views.select((q_view,)))["z"].z)
        k = encoder.target.rows(views.select((k_view,)))["z"].z
        expected += (2 - 2 * nn.functional.cosine_similarity(q, k)).mean().item()
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_one_state_dict_holds_encoder_queue_and_temperature():
    encoder = Momentum(siamese(tower()), query_views=(0,), key_views=(1,))
    built = Objective(encoder, {"a": Term(Queue(PositivesOnly(), size=3, dim=4), InfoNCE(LearnedTemperature(0.1)))})
    names = built.state_dict().keys()
    for part in ("encoder.online.", "encoder.target.", "terms.a.provider.", "terms.a.loss.temperature."):
        assert any(name.startswith(part) for name in names)
    assert {f"terms.a.provider.ring.{name}" for name in ("embeddings", "ids", "fill", "position")} <= names
    assert built.double().terms["a"].provider.ring.embeddings.dtype == torch.float64


def test_gradient_reaches_every_parameter_the_temperature_included():
    built = Objective(siamese(tower()), {"a": Term(InBatch(True), InfoNCE(LearnedTemperature(0.1)))})
    built(pictures(4)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())


def test_without_a_term_nothing_is_learned():
    with pytest.raises(ValueError, match=r"Objective\.terms is empty"):
        Objective(siamese(tower()), {})
