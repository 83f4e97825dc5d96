"""What a large data set costs: to index, to open, to go through in random order, and to go on within.

A set is made in a temporary folder, and beside it one of a fifth of its size, to see what grows with it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from cl.bench.memory import peak_above
from cl.components import Place
from cl.views.audit import audit
from cl.views.fused_augment import FusedAugment
from cl.views.groups import BySample
from cl.views.index import write_index
from cl.views.shards import Shards
from cl.views.stream import StreamViews
from cl.views.write_shards import write_shards

PER_SHARD = 10_000
BATCH = 64
SIDE = 16  # of a picture, in pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench.py shards`."""
    parser.add_argument("--samples", type=int, default=100_000, help="of the larger set; default 100,000")


def main(chosen: argparse.Namespace) -> None:
    """Prints a line a set."""
    for row in measured(chosen.samples):
        print(
            f"{row['samples']:>9,} samples: indexed in {row['index_seconds']:.1f} s; opened, with a first batch, in "
            f"{row['open_seconds']:.2f} s; an epoch in {row['epoch_seconds']:.0f} s, every sample "
            f"{'once' if row['once'] else 'NOT once'}; resumed in the middle in {row['resume_seconds']:.2f} s with the "
            f"{'very next' if row['resumed'] else 'WRONG'} keys; {row['peak_mb']:.0f} MB more at the peak",
            flush=True,
        )


def measured(samples: int) -> Iterator[dict[str, Any]]:
    """A row for a set of a fifth of the samples, and one for all; each is gone through in a process of its own."""
    for count in (samples // 5, samples):
        with tempfile.TemporaryDirectory() as folder:
            write_shards(Path(folder), "made", _samples(count), PER_SHARD)
            start = time.perf_counter()
            write_index(Path(folder), "made", audit(Path(folder), workers=1).shards)
            row = {"samples": count, "index_seconds": round(time.perf_counter() - start, 2)}
            command = [sys.executable, "-m", "cl.bench.shards", folder]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            yield row | json.loads(child.stdout)


def gone_through(path: str) -> dict[str, Any]:
    """An epoch of a set, in this process, and one that goes on from its middle."""
    seconds: dict[str, float] = {}
    keys, resumed = array("q"), array("q")  # lists of strings would be most of what is measured

    def views() -> StreamViews:
        return StreamViews(Shards(path, caption=None), BATCH, [FusedAugment(SIDE)], BySample(), workers=0)

    def run() -> None:
        start = time.perf_counter()
        source = views()
        batches = source.iterate(Place())
        keys.extend(map(int, next(batches).keys))
        seconds["open_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        every = len(source.data.records()) // BATCH
        keys.extend(int(key) for batch in islice(batches, every - 1) for key in batch.keys)
        seconds["epoch_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        again = views()
        again.load_state_dict({"epoch": 0, "position": len(keys) // 2 // BATCH * BATCH, "skipped": {}})
        resumed.extend(map(int, next(again.iterate(Place())).keys))
        seconds["resume_seconds"] = time.perf_counter() - start

    peak = peak_above(run)
    middle = len(keys) // 2 // BATCH * BATCH
    return {
        **{name: round(value, 3) for name, value in seconds.items()},
        "once": len(set(keys)) == len(keys),
        "resumed": resumed == keys[middle : middle + BATCH],
        "peak_mb": round(peak / 1e6, 1),
    }


def _samples(count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    members = {"jpg": simplejpeg.encode_jpeg(picture), "cls": b"0"}
    return ((f"{number:09d}", members) for number in range(count))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(gone_through(sys.argv[1])))
