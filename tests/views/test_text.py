import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Pictures

from cl.views.memory import Transform
from cl.views.text import Captions, ClipTokenizer, Tokenizer

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
    assert isinstance(view, Transform) and isinstance(TOKENIZERS[8], Tokenizer) and view.needs == {"captions"}
    rows = view.prepare(samples)
    assert rows.tolist() == [[len(text), ord(text[-1])] for text in samples.captions]
    assert sorted(seen) == sorted(set(samples.captions))
    assert view(rows, samples.sample, 0, 0, 1) is rows
