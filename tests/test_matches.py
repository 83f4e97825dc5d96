import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.matches import Matches

NUMBER = st.sampled_from([-(2**63), -1, 0, 1, 7, 2**63 - 1])
FEW, MANY = st.lists(NUMBER, max_size=4), st.lists(NUMBER, max_size=30)


@given(FEW, MANY, st.booleans(), st.integers(0, 1000))
def test_counts_lists_and_sums_are_the_loops(needles, hay, named, seed):
    generator = torch.Generator().manual_seed(seed)
    where = torch.randperm(40, generator=generator)[: len(hay)] if named else None
    rows = torch.randn(40 if named else len(hay), 3, generator=generator, dtype=torch.float64)
    matches = Matches(torch.tensor(needles, dtype=torch.int64), torch.tensor(hay, dtype=torch.int64), where)
    expected = [
        (i, j if where is None else int(where[j]))
        for i, needle in enumerate(needles)
        for j, straw in enumerate(hay)
        if needle == straw
    ]
    assert matches.count.tolist() == [hay.count(needle) for needle in needles]
    pairs = list(zip(*map(torch.Tensor.tolist, matches.pairs(slice(0, len(needles)))), strict=True))
    assert sorted(pairs) == sorted(expected)
    later = list(zip(*map(torch.Tensor.tolist, matches.pairs(slice(1, len(needles)))), strict=True))
    assert sorted(later) == sorted((i, j) for i, j in expected if i >= 1)
    total = torch.zeros(len(needles), 3, dtype=torch.float64)
    for i, j in expected:
        total[i] += rows[j]
    torch.testing.assert_close(matches.sums(rows), total)


@given(st.lists(st.integers(0, 2), min_size=20, max_size=40), st.integers(0, 1000))
def test_sums_of_large_groups(needles, seed):
    rows = torch.randn(len(needles), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    group = torch.tensor(needles)
    expected = (group[:, None] == group).double() @ rows
    torch.testing.assert_close(Matches(group, group).sums(rows), expected)
