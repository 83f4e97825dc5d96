"""What ZeRO keeps where, and what a step over several processes costs, both against what theory says."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cl import results
from cl.bench.intervals import median_interval

ROOT = Path(__file__).parents[2]
STAGES, WORLDS = (0, 1, 2, 3), (1, 2, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `tools/bench.py zero`."""
    parser.add_argument("--memory", type=Path, default=ROOT / "gin" / "paper" / "clip_vit_b32.gin", metavar="FILE")
    parser.add_argument("--speed", type=Path, default=ROOT / "gin" / "simclr.gin", metavar="FILE")
    parser.add_argument("--blocks", type=int, default=15, help="pairs of blocks of the comparison of speed; default 15")
    parser.add_argument("--steps", type=int, default=20, help="steps a block; default 20")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")


def main(chosen: argparse.Namespace) -> None:
    """Prints both tables."""
    state = {"commit": results.commit(), "load": round(os.getloadavg()[0], 1)}
    state |= {"blocks": chosen.blocks, "steps_a_block": chosen.steps}
    found = state | {"memory": memory(chosen.memory), "speed": speed(chosen.speed, chosen.blocks, chosen.steps)}
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


def formula(stage: int, world: int, parameters: int) -> dict[str, float]:
    """Bytes a rank of a float32 training with Adam (Rajbhandari et al. 2020, section 5, with 4-byte parameters).

    A parameter takes 4 bytes, its gradient 4, Adam's two moments 8; from stage 1 on DeepSpeed keeps a master copy of
    the share that a rank steps, 4 bytes too though the parameters are float32 themselves.
    """
    return {
        "parameters": 4 * parameters / (world if stage == 3 else 1),
        "gradients": 4 * parameters / (world if stage >= 2 else 1),
        "optimizer": 12 * parameters / world if stage else 8 * parameters,
    }


def memory(recipe: Path) -> list[dict[str, Any]]:
    """Bytes a rank holds between a backward pass and its step, at every stage on 1, 2 and 4 processes."""
    rows = []
    heads = "".join(f"{head:>24}" for head in ("parameters", "gradients", "optimizer", "step"))
    print(f"{'':>16}{heads}   MB a rank: measured / formula")
    for world in WORLDS:
        for stage in STAGES:
            with _ranks(world, "memory", str(recipe), str(stage)) as ranks:
                found = [json.loads(next(rank)) for rank in ranks]
            row: dict[str, Any] = {"stage": stage, "processes": world}
            for name, wanted in formula(stage, world, found[0]["numbers"]).items():
                row[name] = {"bytes": max(each[name] for each in found), "formula": round(wanted)}
            row["step_seconds"] = max(each["step_seconds"] for each in found)
            rows.append(row)
            cells = [
                f"{row[n]['bytes'] / 1e6:.0f} / {row[n]['formula'] / 1e6:.0f}"
                for n in ("parameters", "gradients", "optimizer")
            ] + [f"{row['step_seconds']:.1f} s"]
            print(f"ZeRO {stage} on {world:>2}   " + "".join(f"{cell:>24}" for cell in cells), flush=True)
    return rows


def speed(recipe: Path, blocks: int, steps: int) -> list[dict[str, Any]]:
    """Samples a second of two processes of one thread over those of one with two, the same global batch."""
    rows = []
    for stage in STAGES:
        with ExitStack() as running:
            one = running.enter_context(_ranks(1, "speed", str(recipe), "local", threads=2))
            two = running.enter_context(_ranks(2, "speed", str(recipe), str(stage), threads=1))
            for group in (one, two):
                _seconds(group, steps)
            ratios = []
            for block in range(blocks):
                times = {id(group): _seconds(group, steps) for group in ((one, two) if block % 2 else (two, one))}
                ratios.append(times[id(one)] / times[id(two)])
            median, low, high = median_interval(ratios)
            rows.append({"stage": stage, "ratio": round(median, 3), "interval_95": [round(low, 3), round(high, 3)]})
            print(f"ZeRO {stage}: two processes {median:.2f} ({low:.2f} to {high:.2f}) x one process", flush=True)
    return rows


class _Rank:
    """A child: lines go in, lines come out."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def __next__(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return line
        raise RuntimeError(f"a process of the benchmark ended with {self.process.wait()}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


def _seconds(ranks: Sequence[_Rank], steps: int) -> float:
    for rank in ranks:
        rank.tell(str(steps))
    return max(json.loads(next(rank))["seconds"] for rank in ranks)


@contextmanager
def _ranks(world: int, *words: str, threads: int = 1) -> Iterator[list[_Rank]]:
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(world):
            environment = os.environ | {
                "OMP_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": "PASSIVE",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            }
            command = [sys.executable, "-m", "cl.bench.zero_child", f"{folder}/rendezvous", *words]
            processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
        try:
            yield [_Rank(process) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
