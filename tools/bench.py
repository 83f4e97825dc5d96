"""Benchmarks that compare two things in one run and report the ratio."""

import argparse
import sys
from pathlib import Path

from cl.bench import data, loss, pieces, shards, step, zero


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("step", help="the framework's training step against a loop written by hand")
    one.add_argument("--gin", type=Path, default=Path("gin/simclr.gin"), help="a SimCLR recipe; default gin/simclr.gin")
    one.add_argument("--blocks", type=int, default=15, help="pairs of blocks; default 15")
    one.add_argument("--steps", type=int, default=20, help="steps a block; default 20")
    one.add_argument("--param", action="append", default=[], metavar="BINDING")
    losses = kinds.add_parser("loss", help="the losses against plain PyTorch, other libraries and bare matrix products")
    loss.add_arguments(losses)
    pieces.add_arguments(kinds.add_parser("pieces", help="peak memory of a large batch in pieces"))
    data.add_arguments(kinds.add_parser("data", help="views a second on one core against torchvision and lightly"))
    shards.add_arguments(kinds.add_parser("shards", help="a set of 100,000 samples: index, order, resume, memory"))
    zero.add_arguments(kinds.add_parser("zero", help="what ZeRO keeps where, and two processes against one"))
    chosen = parser.parse_args()
    if chosen.kind == "loss":
        loss.main(chosen)
    elif chosen.kind == "pieces":
        pieces.main(chosen)
    elif chosen.kind == "data":
        data.main(chosen)
    elif chosen.kind == "shards":
        shards.main(chosen)
    elif chosen.kind == "zero":
        zero.main(chosen)
    else:
        step.main(chosen.gin, chosen.blocks, chosen.steps, chosen.param)
    return 0


if __name__ == "__main__":
    sys.exit(main())
