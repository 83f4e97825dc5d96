import argparse
import json

import pytest

from cl.bench import shards


def test_a_row_for_each_of_two_sets(capsys):
    shards.main(argparse.Namespace(samples=640))
    small, large = capsys.readouterr().out.splitlines()
    assert "128 samples: indexed" in small and "640 samples: indexed" in large
    for line in (small, large):
        assert "every sample once" in line and "very next keys" in line


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data_set():
    small, large = shards.measured(100_000)
    assert (small["samples"], large["samples"]) == (20_000, 100_000)
    for row in (small, large):
        assert row["once"] and row["resumed"], row
    assert large["peak_mb"] < small["peak_mb"] + 8, json.dumps([small, large])  # 100 bytes a sample
