from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cl.encoders.norms import BatchNorm, GroupNorm, SplitBatchNorm


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@pytest.mark.parametrize("shape, reference", [((6, 4), nn.BatchNorm1d), ((6, 4, 5, 5), nn.BatchNorm2d)])
def test_batch_norm_is_torchs_at_every_rank(shape, reference):
    ours, theirs, x = BatchNorm(4), reference(4), draw(*shape)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert not list(BatchNorm(4, affine=False).parameters())
    with pytest.raises(ValueError, match="n c"):
        ours(draw(4))


@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 100))
def test_split_batch_norm_is_batch_norm_of_every_part(splits, part, seed):
    x = draw(splits * part, 3, 2, 2, seed=seed)
    norm = SplitBatchNorm(3, splits=splits).train()
    torch.testing.assert_close(norm(x), torch.cat([BatchNorm(3)(piece) for piece in x.split(part)]))
    norm.eval()  # no parts then: a row alone is what it is in the batch
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))


@given(st.integers(1, 5), st.integers(0, 100))
def test_split_running_statistics_move_as_far_as_one_batch_norm(splits, seed):
    part = draw(6, 3, seed=seed)
    x = part.repeat(splits, 1)  # every part has the same statistics
    split, whole = SplitBatchNorm(3, splits=splits), BatchNorm(3)
    split(x), whole(part)
    torch.testing.assert_close(split.running_mean, whole.running_mean)
    torch.testing.assert_close(split.running_var, whole.running_var)


def test_parts_may_be_of_unequal_size():
    x = draw(7, 3)
    expected = torch.cat([BatchNorm(3)(piece) for piece in (x[:3], x[3:5], x[5:])])
    torch.testing.assert_close(SplitBatchNorm(3, splits=3)(x), expected)


def test_no_statistics_cross_the_samples_of_a_group_norm():
    x = draw(5, 8, 3, 3)
    norm = GroupNorm(8, groups=4).train()
    torch.testing.assert_close(norm(x)[:1], norm(x[:1]))
    torch.testing.assert_close(norm(x), nn.GroupNorm(4, 8)(x))


@pytest.mark.parametrize("make", [partial(GroupNorm, 6, groups=4), partial(SplitBatchNorm, 4, splits=0)])
def test_wrong_sizes_are_refused(make):
    with pytest.raises(ValueError):
        make()
