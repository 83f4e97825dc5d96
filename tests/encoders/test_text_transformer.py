import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.encoders.text_transformer import TextTransformer

END = 19
torch.manual_seed(0)
TRUNK = TextTransformer(vocabulary=20, context=8, width=8, layers=2, heads=2).eval()
TEXT = st.lists(st.integers(1, END - 1), max_size=6)


def padded(words, filler=0):
    return torch.tensor([[*words, END, *[filler] * (7 - len(words))]])


@given(TEXT, st.integers(0, END - 1))
def test_what_follows_the_end_changes_nothing(words, filler):
    torch.testing.assert_close(TRUNK(padded(words, filler)), TRUNK(padded(words)))
    torch.testing.assert_close(TRUNK(padded(words)[:, : len(words) + 1]), TRUNK(padded(words)), rtol=1e-4, atol=1e-5)


@given(TEXT.filter(len), st.data())
def test_every_word_before_the_end_counts(words, data):
    place = data.draw(st.integers(0, len(words) - 1))
    other = [*words]
    other[place] = words[place] % (END - 1) + 1
    assert not torch.allclose(TRUNK(padded(words)), TRUNK(padded(other)), atol=1e-5)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_texts_do_not_see_each_other(texts):
    batch = torch.cat([padded(words) for words in texts])
    torch.testing.assert_close(TRUNK(batch), torch.cat([TRUNK(padded(words)) for words in texts]), rtol=1e-4, atol=1e-5)


def test_a_narrow_table_is_widened():
    trunk = TextTransformer(vocabulary=20, context=8, width=8, layers=1, heads=2, embedding_width=3)
    assert trunk.token.weight.shape == (20, 3) and trunk(padded([1, 2])).shape == (1, 8) and trunk.num_features == 8


def test_gradient_reaches_every_parameter():
    trunk = TextTransformer(vocabulary=20, context=8, width=8, layers=2, heads=2, embedding_width=3).train()
    (trunk(padded([1, 2])) * torch.randn(1, 8)).sum().backward()
    assert all(p.grad is not None for p in trunk.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="not a multiple of heads"):
        TextTransformer(width=10, heads=4)
