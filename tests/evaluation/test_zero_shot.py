import pytest
import torch

from cl.errors import DataError
from cl.evaluation.evaluation import Evaluation
from cl.evaluation.zero_shot import ZeroShot
from cl.views.text import Tokenizer

CPU = torch.device("cpu")
PROMPTS = ["a {} square", "{}", "the picture shows a red and {} thing"]


def test_names_pictures(encoder, tokenizer, pictures):
    validation, test = pictures([0, 1, 2, 2]), pictures([2, 1, 0, 0, 1], seed=1)
    zero_shot = ZeroShot(validation, test, tokenizer, ["red", "green", "blue"], PROMPTS)
    assert isinstance(tokenizer, Tokenizer) and isinstance(zero_shot, Evaluation)
    assert validation.readings == test.readings == 0
    assert zero_shot.baseline(CPU) == {"zero_shot_chance": pytest.approx(1 / 3)}
    assert zero_shot(encoder, "validation", CPU) == {"zero_shot": 1.0}
    assert zero_shot(encoder, "test", CPU) == {"zero_shot": 1.0}
    assert zero_shot.data["test"].load() is zero_shot.data["test"].load() and test.readings == 1
    assert {(dtype, view) for _, dtype, view in encoder.seen} == {(torch.float32, 0), (torch.int64, 1)}
    assert encoder.training


def test_the_order_of_the_names_is_that_of_the_labels(encoder, tokenizer, pictures):
    test = pictures([0, 1, 2, 2])
    zero_shot = ZeroShot(test, test, tokenizer, ["red", "blue", "green"], ["a {}"])
    assert zero_shot(encoder, "test", CPU) == {"zero_shot": pytest.approx(0.25)}


def test_a_class_is_the_normalised_mean_of_its_normalised_prompts(encoder, tokenizer, pictures):
    zero_shot = ZeroShot(pictures([0]), pictures([0]), tokenizer, ["green", "blue"], PROMPTS)
    half = 0.5**0.5
    expected = torch.tensor([[half, 2 + half, 0], [half, 0, 2 + half]])
    torch.testing.assert_close(zero_shot.class_rows(encoder.eval(), CPU), expected / expected.norm(dim=1, keepdim=True))


def test_a_label_without_a_name_is_an_error(encoder, tokenizer, pictures):
    zero_shot = ZeroShot(pictures([0]), pictures([0, 2]), tokenizer, ["red", "green"], ["{}"])
    with pytest.raises(DataError, match=r"2 classes.*'0/1'.*label 2"):
        zero_shot(encoder, "test", CPU)


@pytest.mark.parametrize(("classes", "prompts"), [([], ["{}"]), (["red"], [])])
def test_there_are_classes_and_prompts(classes, prompts, tokenizer, pictures):
    with pytest.raises(ValueError, match=r"ZeroShot\.classes and \.prompts must not be empty"):
        ZeroShot(pictures([0]), pictures([0]), tokenizer, classes, prompts)
