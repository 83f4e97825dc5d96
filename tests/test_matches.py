import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.matches import Matches, sums

NUMBER = st.sampled_from([-(2**63), -1, 0, 1, 7, 2**63 - 1])
FEW, MANY = st.lists(NUMBER, max_size=4), st.lists(NUMBER, max_size=30)


@given(FEW, MANY, st.integers(0, 1000))
def test_counts_lists_and_sums_are_the_loops(needles, hay, seed):
    rows = torch.randn(len(hay), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matches = Matches(torch.tensor(needles, dtype=torch.int64), torch.tensor(hay, dtype=torch.int64))
    expected = [(i, j) for i, needle in enumerate(needles) for j, straw in enumerate(hay) if needle == straw]
    assert matches.count.tolist() == [hay.count(needle) for needle in needles]
    i, j = matches.pairs(slice(0, len(needles)))
    assert i.tolist() == sorted(i.tolist()) and sorted(zip(i.tolist(), j.tolist(), strict=True)) == expected
    later = list(zip(*map(torch.Tensor.tolist, matches.pairs(slice(1, len(needles)))), strict=True))
    assert sorted(later) == [(i, j) for i, j in expected if i >= 1]
    total = torch.zeros(len(needles), 3, dtype=torch.float64)
    for one, other in expected:
        total[one] += rows[other]
    torch.testing.assert_close(matches.sums(rows), total)
    torch.testing.assert_close(sums(rows, i, j, len(needles)), total)


@given(st.permutations(range(8)))
def test_sums_of_one_match_each(hay):
    rows, needles = torch.eye(8), torch.arange(8)
    i, j = Matches(needles, torch.tensor(hay)).pairs(slice(0, 8))
    assert [hay[at] for at in sums(rows, i, j, 8).argmax(dim=1).tolist()] == list(range(8))


@given(st.lists(st.integers(0, 2), min_size=20, max_size=40), st.integers(0, 1000))
def test_sums_of_large_groups(needles, seed):
    rows = torch.randn(len(needles), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    group = torch.tensor(needles)
    expected = (group[:, None] == group).double() @ rows
    torch.testing.assert_close(Matches(group, group).sums(rows), expected)
