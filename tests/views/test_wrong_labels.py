import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.errors import DataError
from cl.views.groups import stable_hash
from cl.views.samples import DataSet, Samples
from cl.views.wrong_labels import WrongLabels


class Toy:
    provides = frozenset({"labels"})

    def __init__(self, labels):
        n = len(labels)
        self.samples = Samples(
            images=torch.zeros(n, 3, 1, 1, dtype=torch.uint8),
            label=torch.tensor(labels, dtype=torch.int64),
            captions=((),) * n,
            keys=tuple(map(str, range(n))),
            sample=torch.tensor([stable_hash("toy", str(i)) for i in range(n)], dtype=torch.int64),
        )

    def read(self, chunk=1024):
        for start in range(0, len(self.samples), chunk):
            yield self.samples.take(range(len(self.samples))[start : start + chunk])

    def load(self):
        return self.samples


def test_is_a_data_set_of_what_it_wraps():
    wrong = WrongLabels(Toy([0, 1]), 0.5, 2)
    assert isinstance(wrong, DataSet) and wrong.provides == {"labels"}


@given(st.lists(st.integers(-1, 4), max_size=40), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 50))
def test_a_label_is_wrong_wherever_it_is_read_and_nothing_else_is(labels, share, chunk):
    data = Toy(labels)
    wrong = WrongLabels(data, share, 5)
    whole, parts = wrong.load(), [part.label for part in wrong.read(chunk)]
    assert torch.equal(whole.label, torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64))
    for before, after in zip(labels, whole.label.tolist(), strict=True):
        assert after == -1 if before == -1 else after in range(5)
        assert share > 0 or after == before
        assert share < 1 or before == -1 or after != before
    for name in ("images", "captions", "keys", "sample"):
        assert getattr(whole, name) is getattr(data.samples, name)


def test_the_share_is_wrong_and_all_other_classes_alike():
    label = WrongLabels(Toy([3] * 20_000), 0.4, 5).load().label
    counts = label.bincount(minlength=5) / 20_000
    torch.testing.assert_close(counts, torch.tensor([0.1, 0.1, 0.1, 0.6, 0.1]), atol=0.01, rtol=0)


def test_another_seed_is_another_choice():
    one, other = (WrongLabels(Toy([0] * 100), 0.5, 10, seed).load().label for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("share", "classes", "said"),
    [(-0.1, 2, "share must lie"), (1.5, 2, "share must lie"), (0.5, 1, "classes must be at least 2")],
)
def test_what_cannot_be_is_refused(share, classes, said):
    with pytest.raises(ValueError, match=said):
        WrongLabels(Toy([0]), share, classes)


def test_a_label_beyond_the_classes_is_named():
    with pytest.raises(DataError, match=r"label 7, and WrongLabels.classes is 5"):
        WrongLabels(Toy([1, 7]), 0.2, 5).load()
