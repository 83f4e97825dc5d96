import pytest
import torch
from tiny import Pictures

from cl.errors import DataError
from cl.evaluation.evaluation import Evaluation
from cl.evaluation.probe import Probe, linear_probe

CPU = torch.device("cpu")


def clouds(count, seed, noise=0.3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    return centres[labels] + noise * torch.randn(count, 4, generator=generator), labels


def test_separates_clouds():
    found = linear_probe(clouds(90, 0, 0.1), clouds(30, 1, 0.1), clouds(30, 2, 0.1))
    assert found["validation"] == found["test"] == 1


def test_validation_chooses_the_penalty_and_test_does_not():
    train, validation, test = clouds(12, 0, 0.6), clouds(300, 1, 0.6), clouds(300, 2, 0.6)
    each = {c: linear_probe(train, validation, test, [c]) for c in (1e-4, 1e-2, 1.0, 100.0)}
    best = max(each, key=lambda c: each[c]["validation"])
    assert linear_probe(train, validation, test, list(each)) == each[best]
    wrong = (test[0], (test[1] + 1) % 3)
    assert linear_probe(train, validation, wrong, list(each))["C"] == best


def test_scale_and_offset_of_a_feature_change_nothing():
    scale, offset = torch.tensor([1e-3, 1, 50, 1e3]), torch.tensor([5.0, 0, -3, 100])
    parts = [clouds(60, seed) for seed in range(3)]
    moved = [(features * scale + offset, labels) for features, labels in parts]
    assert linear_probe(*moved, [0.1]) == pytest.approx(linear_probe(*parts, [0.1]))


def test_as_an_evaluation(encoder, pictures):
    bank, validation, test = pictures([0, 1, 2] * 8), pictures([0, 1, 2] * 2, seed=1), pictures([1, 2, 2, 0], seed=2)
    test.samples.label[-1] = 1
    probe = Probe(bank, validation, test)
    assert isinstance(probe, Evaluation) and bank.readings == 0
    assert probe.baseline(CPU) == {}
    assert probe(encoder, "validation", CPU) == {"linear_probe": 1.0}
    assert probe(encoder, "test", CPU) == {"linear_probe": pytest.approx(0.75)}
    assert encoder.training


def test_one_label_alone_is_no_task(encoder):
    one = Pictures(8, labels=1)
    with pytest.raises(DataError, match="pictures of one label alone"):
        Probe(one, one, one)(encoder, "test", CPU)


@pytest.mark.parametrize("strengths", [(), (0.0, 1.0)])
def test_strengths_are_above_0_and_there_is_one(strengths):
    one = Pictures(8, labels=1)
    with pytest.raises(ValueError, match=r"Probe\.strengths"):
        Probe(one, one, one, strengths=strengths)
