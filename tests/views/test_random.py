import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.views.random import uniforms

MASK = (1 << 64) - 1
INT = st.integers(0, 2**40)
SAMPLE = st.integers(0, 2**63 - 1)


def naive(seed, epoch, sample, view, count):
    """The same in Python's integers, which do not wrap."""

    def mix(x):
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
        return x ^ x >> 31

    weyl, state = 0x9E3779B97F4A7C15, 0
    for part in (seed, epoch, view):
        state = mix(((state ^ part) + weyl) & MASK)
    row = (mix(sample ^ state) + weyl) & MASK
    row = mix(row)
    return [(mix((row + weyl * (i + 1)) & MASK) >> 40) / 2**24 for i in range(count)]


@given(INT, INT, st.lists(SAMPLE, max_size=5), st.integers(0, 20), st.integers(0, 9))
def test_equals_unbounded_integers(seed, epoch, samples, view, count):
    drawn = uniforms(seed, epoch, torch.tensor(samples, dtype=torch.int64), view, count)
    assert drawn.shape == (len(samples), count) and drawn.dtype == torch.float32
    assert drawn.tolist() == [naive(seed, epoch, sample, view, count) for sample in samples]


@given(INT, INT, st.lists(SAMPLE, min_size=1, max_size=8), st.integers(0, 9), st.data())
def test_depends_on_nothing_but_its_arguments(seed, epoch, samples, view, data):
    rows = torch.tensor(samples)
    order = torch.tensor(data.draw(st.permutations(range(len(samples)))))
    whole = uniforms(seed, epoch, rows, view, 6)
    assert torch.equal(uniforms(seed, epoch, rows[order], view, 6), whole[order])
    assert torch.equal(uniforms(seed, epoch, rows[:1], view, 3), whole[:1, :3])


def many(n=20_000):
    """Draws along each argument, the others fixed: consecutive values, the hardest for a weak mixer."""
    one, rows = torch.tensor([7]), torch.arange(n)
    return {
        "seed": torch.cat([uniforms(i, 3, one, 1, 2) for i in range(n // 10)]),
        "epoch": torch.cat([uniforms(3, i, one, 1, 2) for i in range(n // 10)]),
        "view": torch.cat([uniforms(3, 1, one, i, 2) for i in range(n // 10)]),
        "sample": uniforms(3, 1, rows, 0, 2),
        "sample's high bits": uniforms(3, 1, rows << 40, 0, 2),
        "count": uniforms(3, 1, one, 0, n).reshape(-1, 2),
    }


@pytest.mark.parametrize("along, draws", many().items(), ids=many())
def test_is_uniform_and_uncorrelated_along_every_argument(along, draws):
    n = len(draws)
    assert draws.min() >= 0 and draws.max() < 1
    for column in draws.unbind(dim=1):
        counts = torch.histc(column, bins=50, min=0, max=1)
        chi_squared = ((counts - n / 50) ** 2 / (n / 50)).sum()
        assert chi_squared < 100, along  # 49 degrees of freedom: p < 1e-5
        pairs = torch.stack([column[:-1], column[1:]])
        assert torch.corrcoef(pairs)[0, 1].abs() < 5 / n**0.5
    assert torch.corrcoef(draws.T)[0, 1].abs() < 5 / n**0.5


def test_arguments_are_not_interchangeable():
    one = torch.tensor([5])
    calls = [(1, 2, one, 3), (2, 1, one, 3), (1, 3, one, 2), (3, 2, one, 1), (1, 2, torch.tensor([3]), 5)]
    draws = torch.stack([uniforms(*call, 4).flatten() for call in calls])
    assert len(draws.unique()) == draws.numel()


def test_a_changed_bit_of_the_sample_changes_half_of_the_bits():
    base = torch.tensor([0x123456789ABCDEF])
    bits = 1 << torch.arange(62)
    flipped = (uniforms(0, 0, base ^ bits, 0, 64) * 2**24).long() ^ (uniforms(0, 0, base, 0, 64) * 2**24).long()
    changed = torch.stack([(flipped >> i) & 1 for i in range(24)]).float().mean(dim=(0, 2))
    assert (changed - 0.5).abs().max() < 0.08
