"""Races losses side by side: time in alternating repeats, memory in a process each."""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from cl import results
from cl.bench.contenders import CASES, FLOOR, LOW, OURS
from cl.bench.intervals import median_interval

QUICK = {"rows": (512, 2048, 8192), "widths": (128,), "threads": (2,)}
FULL = {"rows": (512, 2048, 8192, 32_768, 65_536), "widths": (128, 512), "threads": (1, 2)}
MINE = (OURS, LOW, FLOOR)
CONFIGURATION = ("case", "rows", "width", "threads")
SHORTEST, LONGEST = 0.2, 180.0
"""Seconds: a contender's passes are repeated until one measurement takes as long, and all repeats about so long."""


class Child:
    """A contender's process."""

    def __init__(self, *arguments: object):
        command = [sys.executable, "-m", "cl.bench.loss_child", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def read(self) -> dict[str, Any]:
        """Its next line; RuntimeError with the last line of its complaint if it ended."""
        assert self.process.stdout and self.process.stderr
        if line := self.process.stdout.readline():
            return json.loads(line)
        said = self.process.stderr.read().strip().splitlines() or ["no message"]
        raise RuntimeError(said[-1][:200])

    def run(self, passes: int) -> float:
        """Seconds a pass."""
        assert self.process.stdin
        self.process.stdin.write(f"{passes}\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def end(self) -> dict[str, Any]:
        """Bytes that passes took beyond the inputs, at the peak; of rounded products their relative errors."""
        assert self.process.stdin
        self.process.stdin.close()
        found = self.read()
        self.process.wait()
        return found


def race(
    case: str, rows: int, width: int, threads: int, limit: int, repeats: int, known: dict[tuple[str, str], dict]
) -> Iterator[dict[str, Any]]:
    """A row for every contender: median seconds, extra bytes, and our speed over it with its interval."""
    state = {"commit": results.commit(), "load": round(os.getloadavg()[0], 1)}
    children: dict[str, Child] = {}
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name in CASES[case].contenders:
        smaller = known.get((case, name))
        expected = smaller["extra_bytes"] * (rows / smaller["rows"]) ** CASES[case].grows if smaller else 0
        if name not in MINE and expected > limit:
            failed[name] = f"not tried: would need about {expected / 1e9:.0f} GB"
            continue
        child = Child(case, name, rows, width, threads, limit)
        try:
            child.read()
            child.run(1)
            seconds[name] = child.run(1)
        except RuntimeError as error:
            failed[name] = str(error)
            child.process.kill()
            continue
        children[name] = child
    # As long as any is slow, the fastest is not measured by single passes, nor the slowest for an hour.
    passes = {name: math.ceil(SHORTEST / pass_) for name, pass_ in seconds.items()}
    repeats = min(repeats, max(3, round(LONGEST / sum(seconds.values()))))
    times: dict[str, list[float]] = {name: [] for name in children}
    for repeat in range(repeats):
        for name in list(children) if repeat % 2 else list(children)[::-1]:
            times[name].append(children[name].run(passes[name]))
    for name in CASES[case].contenders:
        configuration = dict(zip(CONFIGURATION, (case, rows, width, threads), strict=True))
        row: dict[str, Any] = configuration | state | {"contender": name}
        if name in failed:
            yield row | {"failed": failed[name]}
            continue
        try:
            memory_and_errors = children[name].end()
        except RuntimeError as error:
            yield row | {"failed": str(error)}
            continue
        ratios = [theirs / ours for theirs, ours in zip(times[name], times[OURS], strict=True)]
        median, low, high = median_interval(ratios)
        yield row | {
            "repeats": repeats,
            "seconds": statistics.median(times[name]),
            "times_ours": round(median, 3),
            "interval_95": [round(low, 3), round(high, 3)],
            **memory_and_errors,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench.py loss`."""
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument("--quick", action="store_true", help="512, 2,048 and 8,192 rows, width 128, two threads; default")
    grid.add_argument("--full", action="store_true", help="rows to 65,536, widths 128 and 512, one and two threads")
    parser.add_argument("--rows", nargs="+", type=int, metavar="N")
    parser.add_argument("--widths", nargs="+", type=int, metavar="D")
    parser.add_argument("--threads", nargs="+", type=int, metavar="T")
    parser.add_argument("--repeats", type=int, default=7, help="alternating repeats, fewer where slow; default 7")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="writes loss.json there, where configurations not run now keep their rows, and with matplotlib loss.png",
    )


def main(chosen: argparse.Namespace) -> None:
    """Runs the grid, printing a line a contender as it comes."""
    grid = FULL if chosen.full else QUICK
    rows = []
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    for threads, width, case in product(
        chosen.threads or grid["threads"], chosen.widths or grid["widths"], chosen.cases
    ):
        known: dict[tuple[str, str], dict] = {}
        for n in sorted(chosen.rows or grid["rows"]):
            new = []
            for row in race(case, n, width, threads, limit, chosen.repeats, known):
                new.append(row)
                print(_line(row), flush=True)
                if "failed" not in row:
                    known[case, row["contender"]] = row
            if chosen.out:
                rows = keep(new, chosen.out / "loss.json")
    if chosen.out:
        plot(rows, chosen.out / "loss.png")


def keep(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The file's rows and these of one configuration, which replace those that it has; written, and returned."""
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in before if any(row[name] != rows[0][name] for name in CONFIGURATION)]
    path.parent.mkdir(parents=True, exist_ok=True)
    order = list(CASES)
    every = sorted(kept + rows, key=lambda row: (row["threads"], row["width"], order.index(row["case"]), row["rows"]))
    path.write_text(json.dumps(every, indent=1) + "\n")
    return every


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and extra memory over rows, a column a case; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (pip install '.[peers]')")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    width, threads = min(row["width"] for row in rows), max(row["threads"] for row in rows)
    shown = [row for row in rows if "seconds" in row and (row["width"], row["threads"]) == (width, threads)]
    cases = list(dict.fromkeys(row["case"] for row in shown))
    figure, axes = pyplot.subplots(2, len(cases), figsize=(4.2 * len(cases), 7), sharex="col", squeeze=False)
    for (time, memory), case in zip(axes.T, cases, strict=True):
        for name in CASES[case].contenders:
            mine = [row for row in shown if (row["case"], row["contender"]) == (case, name)]
            if not mine:
                continue
            n = [row["rows"] for row in mine]
            line = {"marker": "o", "linestyle": ":" if name == FLOOR else "-", "label": name}
            time.loglog(n, [row["seconds"] for row in mine], **line)
            if name != FLOOR:
                memory.loglog(n, [max(row["extra_bytes"], 1e5) / 1e6 for row in mine], **line)
        _guide(time, CASES[case].grows)
        _guide(memory, 1)
        time.set_title(f"{case}, width {width}, {threads} threads")
        memory.set_xlabel(CASES[case].rows)
        sizes = sorted({row["rows"] for row in shown if row["case"] == case})
        memory.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, minor=False)
        memory.set_xticks([], minor=True)
        time.legend(fontsize=7)
    axes[0, 0].set_ylabel("seconds, forward and backward")
    axes[1, 0].set_ylabel("MB beyond the inputs")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _guide(axis: Any, power: int) -> None:
    # From our last point down: what grows as this power of the rows is parallel to it.
    n, values = (list(map(float, data)) for data in axis.lines[0].get_data())
    along = [values[-1] * (each / n[-1]) ** power for each in n]
    axis.loglog(n, along, color="gray", linewidth=0.8, linestyle="--", label=["", "linear", "quadratic"][power])


def _line(row: dict[str, Any]) -> str:
    head = f"{row['case']:7} {row['rows']:>6} x {row['width']:<4} {row['threads']} threads  {row['contender']:24}"
    if "failed" in row:
        return f"{head} {row['failed']}"
    low, high = row["interval_95"]
    off = f", off by {row['loss_error']:.1e}, gradient {row['gradient_error']:.1e}" if "loss_error" in row else ""
    return (
        f"{head} {1000 * row['seconds']:9.1f} ms  {row['extra_bytes'] / 1e6:8.1f} MB  "
        f"{row['times_ours']:6.2f} x cl's time ({low:.2f} to {high:.2f}){off}"
    )
