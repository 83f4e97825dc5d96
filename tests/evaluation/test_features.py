import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl.errors import NumericError
from cl.evaluation.features import embed, evaluating, extract, similarities, to_input

CPU = torch.device("cpu")


def test_pictures_enter_as_float_between_0_and_1():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).repeat(2, 1, 4, 4)
    x = to_input(images, CPU)
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0, 0.2, 1.0]))


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 12), chunk=st.integers(1, 15))
def test_pieces_are_the_whole(encoder, pictures, count, chunk):
    data = pictures([row % 3 for row in range(count)])
    samples = data.load()
    expected = samples.images.float().mean(dim=(2, 3)) / 255
    encoder.seen.clear()
    for source in (samples, data):
        torch.testing.assert_close(extract(encoder, source, 0, CPU, chunk), expected)
        unit = embed(encoder, source, 0, CPU, chunk)
        torch.testing.assert_close(unit, expected / expected.norm(dim=1, keepdim=True))
    assert max(shape[0] for shape, _, _ in encoder.seen) <= chunk


def test_tokens_and_view_numbers_pass_through(encoder):
    tokens = torch.tensor([[1, 0], [2, 3], [3, 0]])
    rows = embed(encoder, tokens, 5, CPU, chunk=2)
    half = 0.5**0.5
    torch.testing.assert_close(rows, torch.tensor([[1, 0, 0], [0, half, half], [0, 0, 1]]))
    assert [(shape[0], view) for shape, _, view in encoder.seen] == [(2, 5), (1, 5)]


def test_the_mode_of_every_module_comes_back(encoder, pictures):
    extract(encoder, pictures([0, 1]).load(), 0, CPU)
    assert encoder.training and encoder.dropout.training and not encoder.frozen.training
    with pytest.raises(ZeroDivisionError), evaluating(encoder):
        assert not encoder.dropout.training and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert encoder.dropout.training and not encoder.frozen.training and torch.is_grad_enabled()


def test_features_carry_no_gradient(encoder, pictures):
    layer = torch.nn.Linear(3, 2)
    encoder.dropout = layer
    features = extract(encoder, pictures([0, 1]).load(), 0, CPU)
    assert features.shape == (2, 2) and not features.requires_grad


def test_similarities_are_float32_under_autocast():
    q, k = torch.randn(5, 64), torch.randn(7, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarities(q, k)
    torch.testing.assert_close(found, q @ k.T)


def test_features_that_are_no_numbers_are_refused(encoder, pictures):
    encoder.features = lambda x, view: x.mean(dim=(2, 3)) * float("nan")
    with pytest.raises(NumericError, match="The features of held-out data are not finite"):
        extract(encoder, pictures([0, 1]), 0, CPU)
