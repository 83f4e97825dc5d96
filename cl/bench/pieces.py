"""Peak memory of a training step whose batch passes the networks in pieces, beside that of one piece alone."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from cl import results, rules, wiring
from cl.bench.memory import peak_above
from cl.components import Step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench.py pieces`."""
    parser.add_argument("--gin", type=Path, default=Path("gin/simclr.gin"), help="default gin/simclr.gin")
    parser.add_argument("--batch", type=int, default=4096, help="samples of the large batch; default 4096")
    parser.add_argument("--piece", type=int, default=64, help="samples of a piece; default 64")
    parser.add_argument("--param", action="append", default=[], metavar="BINDING")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")


def main(chosen: argparse.Namespace) -> None:
    """Prints the peaks of both as JSON, and what their difference is made of."""
    found = compare(chosen.gin, chosen.batch, chosen.piece, chosen.param)
    one, whole = found["one_piece"], found["whole_in_pieces"]
    added = whole["peak_mb"] - one["peak_mb"]
    print(f"{added:.1f} MB more, of which pixels {whole['pixels_mb']:.1f} MB; an embedding {whole['rows_mb']:.1f} MB")
    if chosen.out:
        state = {"commit": results.commit(), "recipe": str(chosen.gin), "batch": chosen.batch, "piece": chosen.piece}
        chosen.out.write_text(json.dumps(state | found, indent=1) + "\n")


def compare(recipe: Path, batch: int, piece: int, params: list[str]) -> dict[str, dict[str, float]]:
    """The peaks of a batch that is one piece, and of the large one, each of a process of its own."""
    measured = {}
    for name, samples in (("one_piece", piece), ("whole_in_pieces", batch)):
        command = [sys.executable, "-m", "cl.bench.pieces", str(recipe), str(samples), str(piece)]
        # Or malloc keeps what is freed, and how much of it is chance (48 MB more or 14).
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
        run = subprocess.run([*command, *params], stdout=subprocess.PIPE, text=True, check=True, env=environment)
        measured[name] = json.loads(run.stdout)
        print(f"{name}: {json.dumps(measured[name])}", flush=True)
    return measured


def measure(recipe: Path, batch: int, piece: int, params: list[str]) -> dict[str, float]:
    """MB beyond what the process has before its first step, over two steps."""
    training = wiring.read([recipe], [*params, f"MemoryViews.batch = {batch}", f"LocalEngine.piece = {piece}"]).build()
    rules.check(training)
    training.start()
    batches = training.views.iterate(training.place)
    next(batches)  # loads the data
    sizes: dict[str, float] = {}

    def steps() -> None:
        for index in range(2):
            views = next(batches)
            output = training.engine(views)
            training.engine.backward(output)
            training.engine.step(Step(index, 2))
            pixels = {crop.rows.data_ptr(): crop.rows.nbytes for crop in views.crops}
            sizes["pixels_mb"] = sum(pixels.values()) / 1e6
            sizes["rows_mb"] = sum(each.q.nbytes for each in output.embeddings.values()) / 1e6

    return {"peak_mb": round(peak_above(steps) / 1e6, 1), **{k: round(v, 1) for k, v in sizes.items()}}


if __name__ == "__main__":
    recipe, batch, piece, *params = sys.argv[1:]
    print(json.dumps(measure(Path(recipe), int(batch), int(piece), params)))
