"""Writes a trained run's trunks as safetensors under timm's keys, of its last checkpoint or of an earlier one."""

import argparse
import logging
import sys
from pathlib import Path

from cl.durable import replace_file
from cl.errors import CheckpointError, ClError
from cl.export import trunks
from cl.trained import add_run, open_run

EPILOG = """\
A training that reached its end has written those of its last step. The others are in the checkpoints that it kept.

example:
  python tools/export.py runs/simclr-1 --step 600 --out step-600"""


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the run's own folder")
    chosen = parser.parse_args()
    if chosen.step is not None and chosen.out is None:
        parser.error("--step needs --out: the run's own folder has the trunks of its last checkpoint")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder = chosen.out or chosen.run
    try:
        objective = open_run(chosen.run, chosen.imports, chosen.step).objective
    except ClError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.code
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in trunks(objective, objective.state_dict()):
            replace_file(folder / name, content)
            print(f"{folder / name}: {len(content) / 1e6:.1f} MB")
    except OSError as error:
        print(f"{folder} cannot be written: {error.strerror}. Give another --out.", file=sys.stderr)
        return CheckpointError.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
