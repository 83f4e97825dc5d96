"""Evaluates a trained run on held-out data: its own evaluations, and a linear probe on its trunk's features."""

import argparse
import json
import logging
import sys
from pathlib import Path

from cl.checkpoint import replace_file
from cl.errors import CheckpointError, ClError
from cl.evaluation.probe import Probe
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
    file = chosen.run / f"evaluation.{chosen.split}.json"
    try:
        training = open_run(chosen.run, chosen.imports)
        banks = [evaluation.data for evaluation in training.evaluations if "bank" in evaluation.data]
        if banks and Probe.name not in [evaluation.name for evaluation in training.evaluations]:
            probe = Probe(banks[0]["bank"], banks[0]["validation"], banks[0]["test"])
            training.evaluations = [*training.evaluations, probe]
        figures = training.evaluate(chosen.split)
        if not figures:
            print("This run has no evaluations: bind cl.train.evaluations in its config.gin.")
        for name, value in figures.items():
            print(f"{name:28} {value:.4f}")
        replace_file(file, (json.dumps(figures, indent=1) + "\n").encode())
    except ClError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"{file} cannot be written: {error.strerror}.", file=sys.stderr)
        return CheckpointError.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
