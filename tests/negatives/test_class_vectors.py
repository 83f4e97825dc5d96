import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import rows

from cl.losses.info_nce import InfoNCE
from cl.negatives.class_vectors import ClassVectors
from cl.types import Embeddings
from cl.views.groups import ByLabel
from cl.views.samples import Samples


def of_labels(labels, d=4, seed=0):
    """Rows of one view, grouped as `ByLabel` groups them."""
    label = torch.tensor(labels)
    n = len(labels)
    samples = Samples(torch.zeros(n, 3, 2, 2, dtype=torch.uint8), label, (("",),) * n, ("",) * n, torch.arange(n) + 7)
    ids = torch.stack([ByLabel()(samples), samples.sample, torch.zeros_like(label)], dim=1)
    return Embeddings(rows(n, d, seed).requires_grad_(), ids, (0,))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.sampled_from([0.05, 1.0]), st.booleans())
def test_with_info_nce_it_is_cross_entropy(labels, temperature, unit_norm):
    torch.manual_seed(0)
    provider, found = ClassVectors(5, 4, unit_norm), of_labels(labels)
    (contrast,) = provider(found)
    weight = provider.vectors.weight
    vectors = F.normalize(weight, dim=1) if unit_norm else weight
    expected = F.cross_entropy(found.q @ vectors.T / temperature, torch.tensor(labels))
    ours = InfoNCE(temperature)(contrast)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    mine, theirs = (torch.autograd.grad(loss, [weight, found.q], retain_graph=True) for loss in (ours, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_label_that_is_no_class_has_no_positive():
    (contrast,) = ClassVectors(3, 4)(of_labels([0, 7, -1, 2]))
    assert contrast.positives.tolist() == [1, 0, 0, 1] and contrast.candidates.tolist() == [3] * 4


def test_one_class_is_refused():
    with pytest.raises(ValueError, match=r"ClassVectors\.classes must be at least 2"):
        ClassVectors(1, 4)
