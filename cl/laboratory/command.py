"""The laboratory of collapse: ablations beside their healthy twins, and the field's claims, on the built-in data.

    collapse   docs/collapse.md: what every file of gin/collapse does to the recipe it includes
    claims     docs/claims.md: what the field says of batches, queues, temperatures and labels

A run is a row of docs/collapse.jsonl or docs/claims.jsonl, which stays valid until the code that it uses changes, so
an interrupted laboratory goes on where it was.
"""

import argparse
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

from cl.laboratory import claims, collapse
from cl.parents import end_with_parent


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what has no valid row, then writes page and figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("experiment", nargs="?", choices=("collapse", "claims"), default="collapse")
    said = "default 0 1 for collapse, whose guard is judged by seeds from 7 on, and 0 1 2 for claims"
    arguments.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help=said)
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="such as byol, or the claim queue; default all")
    cores = os.cpu_count() or 1
    arguments.add_argument("--jobs", type=int, default=cores, help="runs at a time; default the cores, one a run")
    arguments.add_argument("--draw", action="store_true", help="run nothing")
    chosen = arguments.parse_args(argv)
    if find_spec("matplotlib") is None:  # before half an hour of runs
        arguments.error("the pictures need matplotlib: pip install '.[peers]'")
    if chosen.jobs < 1:
        arguments.error(f"--jobs must be at least 1, got {chosen.jobs}")
    laboratory = {"collapse": collapse, "claims": claims}[chosen.experiment]
    every = laboratory.arms()
    if unknown := set(chosen.only or ()) - set(every):
        arguments.error(f"--only: there is no {min(unknown)}; there are {', '.join(every)}")
    if not chosen.draw:
        names = chosen.only or list(every)
        wanted = [(arm, seed) for seed in chosen.seeds or laboratory.SEEDS for name in names for arm in every[name]]
        with ProcessPoolExecutor(
            chosen.jobs, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(signal.SIGTERM,)
        ) as pool:
            laboratory.ROWS.fill(wanted, laboratory.run, pool, max(cores // chosen.jobs, 1))
    each = dict.fromkeys(arm for arms in every.values() for arm in arms)
    older = sum(not arm.valid(row) for arm in each for row in laboratory.ROWS.of(arm))
    if older:
        print(f"{older} rows are of older code or other settings: without --draw and --only they are run anew")
    laboratory.write()
    return 0
