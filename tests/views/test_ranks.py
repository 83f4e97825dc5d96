"""Ranks that are processes, with workers that are processes: killed, and gone on with by another number of them."""

import json
import os
import subprocess
import sys
from itertools import islice

import pytest

pytestmark = pytest.mark.alone

BATCH, BATCHES = 4, 9  # of 16 samples: two epochs and a bit

READER = """
import json, os, sys
from cl.components import Place
from cl.views.fused_augment import FusedAugment
from cl.views.groups import BySample
from cl.views.shards import Shards
from cl.views.stream import StreamViews

path, batch, rank, world, workers, state = json.loads(sys.argv[1])
views = StreamViews(Shards(path), batch, [FusedAugment(8)], BySample(), workers)
if state:
    views.load_state_dict(state)
for each in views.iterate(Place(rank, world)):
    crop = each.made().crops[0]
    print(json.dumps([each.keys, crop.double().sum(dim=(1, 2, 3)).tolist(), views.state_dict()]), flush=True)
"""


def read(shards, batches, world, workers, state=None):
    """The batches of ranks that are killed after so many, put together: keys, a sum of each view, and the state."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", READER, json.dumps([str(shards), BATCH, rank, world, workers, state])],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(world)
    ]
    found = [[json.loads(line) for line in islice(rank.stdout or (), batches)] for rank in ranks]
    for rank in ranks:
        rank.kill()
        rank.wait()
    whole = []
    for parts in zip(*found, strict=True):
        keys, sums, states = zip(*parts, strict=True)
        assert all(each == states[0] for each in states)
        rows = [(keys[row % world][row // world], sums[row % world][row // world]) for row in range(BATCH)]
        whole.append((rows, states[0]))
    return whole


@pytest.fixture(scope="module")
def unbroken(toy_shards):
    found = read(toy_shards, BATCHES, world=1, workers=0)
    for epoch in (0, 1):  # every sample once
        keys = [key for rows, _ in found[4 * epoch : 4 * epoch + 4] for key, _ in rows]
        assert sorted(keys) == [f"{number:03d}" for number in range(16)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop", "before", "after"),
    [
        (3, (2, 2), (1, 1)),  # batches before the kill, then ranks and workers of each
        (6, (2, 1), (1, 2)),
        (5, (1, 2), (2, 1)),
        (4, (2, 1), (2, 2)),  # between two epochs
    ],
)
def test_killed_ranks_are_gone_on_with_by_others(toy_shards, unbroken, stop, before, after):
    first = read(toy_shards, stop, *before)
    rest = read(toy_shards, BATCHES - stop, *after, state=first[-1][1])
    assert first + rest == unbroken
