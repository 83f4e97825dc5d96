"""Evaluates a trained run on held-out data: its own evaluations, and a linear probe on its trunk's features."""

import argparse
import logging
import sys
from pathlib import Path

from cl.errors import ClError
from cl.evaluation.probe import Probe
from cl.run_folder import RunFolder
from cl.trained import open_run

EPILOG = """\
example:
  python tools/evaluate.py runs/simclr-1"""


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="output folder of a training")
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default test")
    parser.add_argument("--import", action="append", default=[], dest="imports", metavar="MODULE")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        training = open_run(chosen.run, chosen.imports)
        banks = [evaluation.data for evaluation in training.evaluations if "bank" in evaluation.data]
        probes = [Probe(data["bank"], data["validation"], data["test"]) for data in banks[:1]]
        training.evaluations = [*training.evaluations, *probes]
        figures = training.evaluate(chosen.split)
        if not figures:
            print("This run has no evaluations: bind cl.train.evaluations in its config.gin.")
        for name, value in figures.items():
            print(f"{name:28} {value:.4f}")
        RunFolder(chosen.run, resume=True).write_json(f"evaluation.{chosen.split}.json", figures)
    except ClError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
