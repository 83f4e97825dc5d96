import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.views.groups import ByCaption, ByLabel, BySample, Grouping, stable_hash
from cl.views.samples import Samples

LABELS = st.lists(st.integers(-1, 3), min_size=1, max_size=8)
CAPTIONS = st.lists(st.sampled_from(["", "a", "a b", "0", "1"]), min_size=1, max_size=8)


def samples(labels=None, captions=None):
    n = len(labels or captions)
    return Samples(
        images=torch.zeros(n, 3, 1, 1, dtype=torch.uint8),
        label=torch.tensor(labels or [-1] * n),
        captions=tuple((caption, "another") for caption in captions or [""] * n),
        keys=tuple(map(str, range(n))),
        sample=torch.tensor([stable_hash("data", "shard", str(i)) for i in range(n)]),
    )


@given(LABELS)
def test_by_sample(labels):
    drawn = samples(labels)
    assert torch.equal(BySample()(drawn), drawn.sample) and BySample().needs == frozenset()


@given(LABELS)
def test_by_label(labels):
    drawn = samples(labels)
    group = ByLabel()(drawn).tolist()
    for i, one in enumerate(labels):
        for j, other in enumerate(labels):
            assert (group[i] == group[j]) == (i == j or (one == other and one >= 0))
        assert (group[i] == drawn.sample[i]) == (one < 0)
    assert not {label for label in labels if label >= 0} & set(group)  # hashed with its kind


@given(CAPTIONS)
def test_by_caption(captions):
    drawn = samples(captions=captions)
    group = ByCaption()(drawn).tolist()
    for i, one in enumerate(captions):
        for j, other in enumerate(captions):
            assert (group[i] == group[j]) == (i == j or (one == other and one != ""))
        assert (group[i] == drawn.sample[i]) == (one == "")


def test_a_label_is_not_the_caption_of_the_same_name():
    assert ByLabel()(samples([1])).item() != ByCaption()(samples(captions=["1"])).item()


@pytest.mark.parametrize("grouping, needs", [(BySample(), set()), (ByLabel(), {"labels"}), (ByCaption(), {"captions"})])
def test_are_groupings(grouping, needs):
    assert isinstance(grouping, Grouping) and grouping.needs == needs


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_hashes_are_63_bits_of_the_parts(parts):
    assert 0 <= stable_hash(*parts) < 2**63
    assert stable_hash(*parts) == stable_hash(*parts) != stable_hash(*parts, "more")


def test_hashes_are_the_same_in_every_process():
    # Frozen: a change would give every data set other ids, and every recipe other batches.
    assert stable_hash("label", "3") == 230358161437636358
    code = "from cl.views.groups import stable_hash; print(stable_hash('label', '3'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == stable_hash("label", "3")
