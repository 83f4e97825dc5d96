import json

import pytest

from cl.bench import shards


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set():
    small, large = shards.measured(100_000)
    assert (small["samples"], large["samples"]) == (20_000, 100_000)
    for row in (small, large):
        assert row["once"] and row["resumed"], row
    # The epoch's keys, which the measurement keeps to compare, are 6 MB of it.
    assert large["peak_mb"] < small["peak_mb"] + 16, json.dumps([small, large])
