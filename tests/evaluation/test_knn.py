import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from cl.evaluation.evaluation import Evaluation
from cl.evaluation.knn import KNN, knn_accuracy, knn_predict, raw_pixels
from cl.views.samples import DataSet

CPU = torch.device("cpu")


def naive(bank, bank_labels, queries, k, temperature):
    predicted = []
    for q in queries.double().tolist():
        cosines = []
        for row, label in zip(bank.double().tolist(), bank_labels.tolist(), strict=True):
            dot = sum(x * y for x, y in zip(q, row, strict=True))
            cosines.append((dot / math.hypot(*q) / math.hypot(*row), label))
        votes = {}
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] = votes.get(label, 0) + math.exp(cosine / temperature)
        predicted.append(max(votes, key=lambda label: votes[label]))
    return predicted


def draw(n, m, d, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    bank, queries = torch.randn(n, d, generator=generator), torch.randn(m, d, generator=generator)
    return bank, torch.randint(0, classes, (n,), generator=generator), queries


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 25),
    m=st.integers(1, 12),
    d=st.integers(2, 6),
    classes=st.integers(1, 5),
    k=st.integers(1, 30),
    temperature=st.sampled_from([0.07, 0.5, 3.0]),
    chunk=st.integers(1, 14),
    seed=st.integers(0, 10**6),
)
def test_against_a_loop_in_float64(n, m, d, classes, k, temperature, chunk, seed):
    bank, bank_labels, queries = draw(n, m, d, classes, seed)
    predicted = knn_predict(bank, bank_labels, queries, k, temperature, chunk)
    assert predicted.tolist() == naive(bank, bank_labels, queries, k, temperature)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_scale_rotation_order_and_chunk_change_nothing(seed, chunk):
    bank, bank_labels, queries = draw(40, 30, 8, 4, seed)
    expected = knn_predict(bank, bank_labels, queries)
    generator = torch.Generator().manual_seed(seed)
    order, rotation = torch.randperm(40, generator=generator), torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    lengths = torch.rand(40, 1, generator=generator) + 0.1
    found = knn_predict((bank * lengths)[order] @ rotation, bank_labels[order], queries @ rotation * 3, chunk=chunk)
    assert found.tolist() == expected.tolist()


def test_against_scikit_learn():
    bank, bank_labels, queries = draw(300, 100, 8, 5, 0)
    model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    model.fit(bank.numpy(), bank_labels.numpy())
    assert knn_predict(bank, bank_labels, queries).tolist() == model.predict(queries.numpy()).tolist()
    labels = torch.randint(0, 7, (100,))
    expected = model.score(queries.numpy(), labels.numpy())
    assert knn_accuracy(bank, bank_labels, queries, labels) == pytest.approx(expected)


def test_a_row_of_the_bank_finds_itself_at_any_temperature():
    bank, bank_labels, _ = draw(50, 1, 8, 5, 0)
    for temperature in (1e-4, 1e-2, 0.05):
        assert knn_accuracy(bank, bank_labels, bank, bank_labels, temperature=temperature) == 1


def test_zero_rows_are_no_accident():
    bank, bank_labels, queries = draw(10, 4, 3, 2, 0)
    assert knn_predict(bank * 0, bank_labels, queries * 0).shape == (4,)


def test_raw_pixels_are_averaged_down_to_32_a_side(pictures):
    small, large = pictures([0, 1], side=8).load(), pictures([0, 1], side=64).load()
    torch.testing.assert_close(raw_pixels(small, CPU, chunk=1), small.images.flatten(1).float() / 255)
    blocks = large.images.float().reshape(2, 3, 32, 2, 32, 2).mean(dim=(3, 5)) / 255
    torch.testing.assert_close(raw_pixels(large, CPU), blocks.flatten(1))


def test_as_an_evaluation(encoder, pictures):
    bank, validation, test = pictures([0, 1, 2] * 8), pictures([0, 1, 2] * 2, seed=1), pictures([1, 2, 2, 0], seed=2)
    test.samples.label[-1] = 1  # a label that is wrong
    knn = KNN(bank, validation, test, k=5)
    assert isinstance(knn, Evaluation) and all(isinstance(data, DataSet) for data in knn.data.values())
    assert all(knn.needs <= data.provides for data in knn.data.values())
    assert bank.readings == validation.readings == test.readings == 0
    assert knn.baseline(CPU) == {"knn_raw_pixels": pytest.approx(0.75)}
    assert validation.readings == 0
    assert knn(encoder, "validation", CPU) == {"knn": 1.0}
    assert knn(encoder, "test", CPU) == {"knn": pytest.approx(0.75)}
    assert bank.readings == validation.readings == test.readings == 1
    assert encoder.training and {view for _, _, view in encoder.seen} == {0}


@pytest.mark.parametrize("settings", [{"k": 0}, {"k": -1}, {"temperature": 0.0}, {"temperature": math.nan}])
def test_what_nobody_can_vote_by_is_refused(settings, pictures):
    with pytest.raises(ValueError, match=r"KNN\.k must be at least 1 and \.temperature above 0"):
        KNN(pictures([0]), pictures([0]), pictures([0]), **settings)


def test_labels_may_be_any_numbers():
    bank, labels = torch.randn(50, 8), torch.arange(50) % 5
    few = knn_predict(bank, labels, bank, k=9)
    assert torch.equal(knn_predict(bank, labels * 10**12 - 3, bank, k=9), few * 10**12 - 3)
