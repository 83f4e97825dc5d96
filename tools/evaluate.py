"""Evaluates a trained run on held-out data: its own evaluations, and a linear probe on its trunk's features."""

import argparse
import json
import logging
import sys

from cl.durable import replace_file
from cl.errors import CheckpointError, ClError
from cl.evaluation.probe import Probe
from cl.trained import add_run, open_run

EPILOG = """\
example:
  python tools/evaluate.py runs/simclr-1"""


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="default test")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    of_step = "" if chosen.step is None else f".step-{chosen.step}"
    file = chosen.run / f"evaluation.{chosen.split}{of_step}.json"
    try:
        training = open_run(chosen.run, chosen.imports, chosen.step)
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
