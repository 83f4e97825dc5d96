"""Writes the features that a trained run's trunk gives the pictures of some shards."""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np

from cl.errors import CheckpointError, ClError
from cl.evaluation.features import extract
from cl.trained import add_run, open_run
from cl.views.shards import Shards

EPILOG = """\
The output is a NumPy archive: 'features' (n x f, float32), 'keys' (n), 'labels' (n, -1 where there is none).

example:
  python tools/embed.py runs/simclr-1 ~/.cache/cl/digits-v1/test --out features.npz"""


def main() -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run(parser)
    parser.add_argument("shards", help="folder of WebDataset shards with an index.json")
    parser.add_argument("--out", type=Path, default=Path("features.npz"), help="default features.npz")
    parser.add_argument("--view", type=int, default=0, help="the view as which pictures enter the encoder; default 0")
    parser.add_argument("--size", type=int, help="resize the shorter side and crop the centre to this, in pixels")
    parser.add_argument("--label", default="cls", help="extension of the label's member; '' for none; default cls")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if chosen.out.suffix != ".npz" or not chosen.out.parent.is_dir():  # before minutes of work
        parser.error(f"--out {chosen.out}: an .npz file in a folder that exists")
    if chosen.size is not None and chosen.size < 1:
        parser.error(f"--size is a number of pixels, got {chosen.size}")
    try:
        training = open_run(chosen.run, chosen.imports, chosen.step)
        views = training.objective.encoder.views
        if chosen.view not in views:
            parser.error(f"--view {chosen.view}: the run's encoder has the views {', '.join(map(str, sorted(views)))}")
        samples = Shards(chosen.shards, label=chosen.label or None, caption=None, size=chosen.size).load()
        features = extract(training.objective.encoder, samples, chosen.view, training.place.device).cpu().numpy()
        np.savez(chosen.out, features=features, keys=np.array(samples.keys), labels=samples.label.numpy())
    except ClError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"{chosen.out} cannot be written: {error.strerror}.", file=sys.stderr)
        return CheckpointError.code
    print(f"{chosen.out}: features of {len(samples)} pictures, {features.shape[1]} wide")
    return 0


if __name__ == "__main__":
    sys.exit(main())
