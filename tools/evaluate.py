"""Evaluates a trained run on held-out data: its own evaluations, and a linear probe on its trunk's features."""

import argparse
import json
import sys
from pathlib import Path

from cl.errors import ClError
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
    try:
        training = open_run(chosen.run, chosen.imports)
        evaluations = list(training.evaluations)
        banks = [evaluation.data for evaluation in evaluations if "bank" in evaluation.data]
        evaluations += [Probe(data["bank"], data["validation"], data["test"]) for data in banks[:1]]
        figures = {}
        for evaluation in evaluations:
            figures |= evaluation(training.objective.encoder, chosen.split, training.place.device)
    except ClError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.code
    (chosen.run / f"evaluation.{chosen.split}.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, value in figures.items():
        print(f"{name:28} {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
