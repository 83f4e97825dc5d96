from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

from cl.errors import DataError
from cl.evaluation.evaluation import Evaluation
from cl.evaluation.retrieval import Retrieval, hits_at_1

CPU = torch.device("cpu")


def draw(m, n, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    queries, keys = torch.randn(m, 4, generator=generator), torch.randn(n, 4, generator=generator)
    return (
        queries,
        torch.randint(0, groups, (m,), generator=generator),
        keys,
        torch.randint(0, groups, (n,), generator=generator),
    )


def by_torchmetrics(metric, queries, query_groups, keys, key_groups):
    # Metrics want one flat list of (query, score, relevant).
    scores = queries @ keys.T
    relevant = query_groups[:, None] == key_groups[None]
    indexes = torch.arange(len(queries))[:, None].expand_as(scores)
    return metric(scores.flatten(), relevant.flatten(), indexes=indexes.flatten()).item()


def hits(queries, query_groups, keys, key_groups, chunk=256):
    right = (query_groups[:, None] == key_groups).nonzero()
    return hits_at_1(queries, keys, right[torch.randperm(len(right))], chunk)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 6), st.integers(1, 12), st.integers(0, 10**6))
def test_against_a_loop_and_torchmetrics(m, n, groups, chunk, seed):
    queries, query_groups, keys, key_groups = drawn = draw(m, n, groups, seed)
    best = [max(range(n), key=lambda row: float(query @ keys[row].double())) for query in queries.double()]
    assert hits(*drawn, chunk=chunk).tolist() == (key_groups[best] == query_groups).tolist()
    rate = by_torchmetrics(RetrievalHitRate(top_k=1), *drawn)
    assert hits(*drawn).float().mean().item() == pytest.approx(rate)


def test_is_torchmetrics_recall_where_every_query_has_one_answer():
    queries, _, keys, _ = draw(30, 30, 1, 0)
    one_each = torch.arange(30)
    expected = by_torchmetrics(RetrievalRecall(top_k=1), queries, one_each, keys, one_each)
    assert hits(queries, one_each, keys, one_each).float().mean().item() == pytest.approx(expected)


CAPTIONS = ["a red square", "a green square", "", "a green square", "a blue square"]


def test_equal_captions_count_as_one(encoder, tokenizer, pictures):
    validation, test = pictures([0, 1]), pictures([0, 1, 2, 1, 2], CAPTIONS)
    retrieval = Retrieval(validation, test, tokenizer)
    assert isinstance(retrieval, Evaluation) and validation.readings == test.readings == 0
    assert retrieval.baseline(CPU) == {"recall_at_1_chance": pytest.approx((1 + 4 + 1) / 16)}
    assert retrieval(encoder, "test", CPU) == {"recall_at_1_image_to_text": 1.0, "recall_at_1_text_to_image": 1.0}
    assert {(dtype, view) for _, dtype, view in encoder.seen} == {(torch.float32, 0), (torch.int64, 1)}
    assert encoder.training


def test_every_pair_asks_once_each_way(encoder, tokenizer, pictures):
    # A red picture and a green one, both called red; a blue one; and a less blue one that is called green.
    captions = ["a red square", "a red square", "a blue square", "a green square"]
    test = pictures([0, 1, 2, 2], captions)
    test.samples.images[3, 0] += 80
    found = Retrieval(test, test, tokenizer)(encoder, "test", CPU)
    # The second picture finds "green" and the last one "blue".
    assert found["recall_at_1_image_to_text"] == pytest.approx(2 / 4)
    # "red" is right twice, "blue" is right, "green" finds a picture that is called red.
    assert found["recall_at_1_text_to_image"] == pytest.approx(3 / 4)


def test_any_of_several_captions_is_right_and_each_asks(encoder, tokenizer, pictures):
    # The green picture is also called blue, which is nearer to the blue picture; red is said twice of the red one.
    test = pictures([0, 1, 2])
    texts = (("a red square", "a red square", ""), ("a blue square", "a green square"), ("a blue square",))
    test.samples = replace(test.samples, captions=texts)
    retrieval = Retrieval(test, test, tokenizer)
    # Four pairs: "blue" is borne by two of three pictures and asks twice, the others by one.
    assert retrieval.baseline(CPU) == {"recall_at_1_chance": pytest.approx((1 + 2 + 1 + 2) / 4 / 3)}
    found = retrieval(encoder, "test", CPU)
    assert found == {"recall_at_1_image_to_text": 1.0, "recall_at_1_text_to_image": 1.0}
    test.samples = replace(test.samples, captions=(*texts[:2], ("a red square",)))
    found = Retrieval(test, test, tokenizer)(encoder, "test", CPU)
    assert found["recall_at_1_image_to_text"] == pytest.approx(2 / 3)  # the blue picture finds "blue"
    assert found["recall_at_1_text_to_image"] == pytest.approx(3 / 4)  # "blue" finds it, which is called red now


def test_no_caption_at_all_is_an_error(encoder, tokenizer, pictures):
    retrieval = Retrieval(pictures([0, 1], ["", ""]), pictures([0]), tokenizer)
    with pytest.raises(DataError, match="None of the 2 samples of the validation split has a caption"):
        retrieval(encoder, "validation", CPU)
