import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl.errors import DataError
from cl.evaluation.accuracy import accuracy, labels_of


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_is_the_share_of_equal_entries(pairs):
    predicted, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert accuracy(predicted, labels) == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_a_sample_without_a_label_is_named(pictures):
    assert labels_of(pictures([0, 1, 2]).load()).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"2 of 4 samples.*'0/1'"):
        labels_of(pictures([0, -1, 2, -1], captions=[""] * 4).load())
