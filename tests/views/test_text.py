import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Pictures

from cl.views.loading import batch
from cl.views.samples import Sample
from cl.views.text import Captions, ClipTokenizer, Tokenizer
from cl.views.transforms import BatchTransform, SampleTransform

START, END = 49406, 49407
TEXT = st.text(max_size=60)
TOKENIZERS = {context: ClipTokenizer(context) for context in (3, 8, 77)}


@pytest.mark.parametrize("context", TOKENIZERS)
@given(st.lists(TEXT, min_size=1, max_size=3))
def test_end_of_text_is_the_largest_id_and_survives_truncation(context, texts):
    tokens = TOKENIZERS[context](texts)
    assert tokens.shape == (len(texts), context) and tokens.dtype == torch.int64
    assert tokens[:, 0].tolist() == [START] * len(texts)
    for row in tokens.tolist():
        end = row.index(END)
        assert max(row) == END and row.count(END) == 1
        assert set(row[end + 1 :]) <= {0} and min(row) >= 0


def test_the_reference_ids():
    tokens = TOKENIZERS[8](["a diagram", "a dog", ""])
    assert tokens[:, :4].tolist() == [[START, 320, 22697, END], [START, 320, 1929, END], [START, END, 0, 0]]


@given(st.lists(TEXT, min_size=2, max_size=4))
def test_texts_do_not_depend_on_each_other(texts):
    tokenize = TOKENIZERS[8]
    assert torch.equal(tokenize(texts), torch.cat([tokenize([text]) for text in texts]))


def test_context_holds_at_least_one_token():
    with pytest.raises(ValueError, match=r"ClipTokenizer\.context"):
        ClipTokenizer(2)


def test_captions_are_tokenised_once_each_and_stay_in_place():
    seen = []

    def lengths(texts):
        seen.extend(texts)
        return torch.tensor([[len(text), ord(text[-1])] for text in texts])

    samples = Pictures(6, labels=3).load()
    view = Captions(lengths)
    assert isinstance(view, BatchTransform) and isinstance(TOKENIZERS[8], Tokenizer) and view.needs == {"captions"}
    rows = view.prepare(samples)
    texts = [text for (text,) in samples.captions]
    assert rows.tolist() == [[[len(text), ord(text[-1])]] for text in texts]
    assert sorted(seen) == sorted(set(texts))
    assert torch.equal(view(rows, samples.sample, 0, 0, 1), rows[:, 0])


def several(counts):
    return [
        Sample(torch.zeros(3, 1, 1).byte(), -1, tuple(f"{row} {i}" for i in range(count)), str(row), 10**9 + row)
        for row, count in enumerate(counts)
    ]


def numbers(texts):
    return torch.tensor([[int(word) for word in text.split()] for text in texts])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 50))
def test_of_several_captions_one_is_drawn_an_epoch_alike_from_memory_and_from_a_stream(counts, seed, epoch):
    samples, view = several(counts), Captions(numbers)
    assert isinstance(view, SampleTransform)
    drawn = view.crops(samples, seed, epoch, 1)
    assert drawn[:, 0].tolist() == list(range(len(counts)))
    assert all(0 <= index < count for index, count in zip(drawn[:, 1].tolist(), counts, strict=True))
    whole = batch(samples)
    assert torch.equal(view(view.prepare(whole), whole.sample, seed, epoch, 1), drawn)
    # Whatever other samples come along.
    assert torch.equal(view.crops(samples[-1:], seed, epoch, 1), drawn[-1:])


def test_captions_are_drawn_evenly_and_anew_every_epoch():
    samples, view = several([3] * 300), Captions(numbers)
    epochs = torch.stack([view.crops(samples, 0, epoch, 1)[:, 1] for epoch in range(10)])
    assert all(900 < (epochs == index).sum() < 1100 for index in range(3))
    assert (epochs[0] != epochs[1]).float().mean() > 0.5
