"""Races losses side by side: time in alternating repeats, memory in a process each."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from cl.bench.contenders import CASES, FLOOR, OURS
from cl.bench.intervals import median_interval

QUICK = {"rows": (512, 2048, 8192), "widths": (128,), "threads": (2,)}
FULL = {"rows": (512, 2048, 8192, 32_768, 65_536), "widths": (128, 512), "threads": (1, 2)}


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

    def run(self) -> float:
        """Seconds of one pass."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()["seconds"]

    def end(self) -> int:
        """Bytes that passes took beyond the inputs, at the peak."""
        assert self.process.stdin
        self.process.stdin.close()
        extra = self.read()["extra_bytes"]
        self.process.wait()
        return extra


def race(
    case: str, rows: int, width: int, threads: int, limit: int, repeats: int, known: dict[tuple[str, str], dict]
) -> Iterator[dict[str, Any]]:
    """A row for every contender: median seconds, extra bytes, and our speed over it with its interval."""
    children: dict[str, Child] = {}
    failed: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    for name in CASES[case]:
        smaller = known.get((case, name))
        grows = 1 if case == "moco" else 2
        expected = smaller["extra_bytes"] * (rows / smaller["rows"]) ** grows if smaller else 0
        if name not in (OURS, FLOOR) and expected > limit:
            failed[name] = f"not tried: would need about {expected / 1e9:.0f} GB"
            continue
        child = Child(case, name, rows, width, threads, limit)
        try:
            child.read()
            child.run()  # warm
        except RuntimeError as error:
            failed[name] = str(error)
            child.process.kill()
            continue
        children[name] = child
    for repeat in range(repeats):
        order = list(children) if repeat % 2 else list(children)[::-1]
        for name in order:
            times.setdefault(name, []).append(children[name].run())
    for name in CASES[case]:
        row = {"case": case, "rows": rows, "width": width, "threads": threads, "contender": name}
        if name in failed:
            yield row | {"failed": failed[name]}
            continue
        ratios = [theirs / ours for theirs, ours in zip(times[name], times[OURS], strict=True)]
        median, low, high = median_interval(ratios)
        yield row | {
            "seconds": sorted(times[name])[len(times[name]) // 2],
            "extra_bytes": children[name].end(),
            "times_ours": round(median, 3),
            "interval_95": [round(low, 3), round(high, 3)],
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench.py loss`."""
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--full", action="store_true", help="rows to 65,536, widths 128 and 512, one and two threads")
    parser.add_argument("--rows", nargs="+", type=int, metavar="N")
    parser.add_argument("--widths", nargs="+", type=int, metavar="D")
    parser.add_argument("--threads", nargs="+", type=int, metavar="T")
    parser.add_argument("--repeats", type=int, default=7, help="alternating repeats; default 7")
    parser.add_argument("--out", type=Path, metavar="DIR", help="writes loss.json and, with matplotlib, loss.png there")


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
            for row in race(case, n, width, threads, limit, chosen.repeats, known):
                rows.append(row)
                print(_line(row), flush=True)
                if "failed" not in row:
                    known[case, row["contender"]] = row
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "loss.json").write_text(json.dumps(rows, indent=1) + "\n")
        plot(rows, chosen.out / "loss.png")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds and extra memory over rows, a column a case; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (pip install '.[peers]')")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    width, threads = rows[0]["width"], max(row["threads"] for row in rows)
    shown = [row for row in rows if "seconds" in row and (row["width"], row["threads"]) == (width, threads)]
    cases = list(dict.fromkeys(row["case"] for row in shown))
    figure, axes = pyplot.subplots(2, len(cases), figsize=(4.2 * len(cases), 7), sharex="col", squeeze=False)
    for column, case in enumerate(cases):
        for name in CASES[case]:
            mine = [row for row in shown if (row["case"], row["contender"]) == (case, name)]
            n = [row["rows"] for row in mine]
            line = {"marker": "o", "linestyle": ":" if name == FLOOR else "-", "label": name}
            axes[0, column].loglog(n, [row["seconds"] for row in mine], **line)
            if name != FLOOR:
                axes[1, column].loglog(n, [max(row["extra_bytes"], 1e5) / 1e6 for row in mine], **line)
        axes[0, column].set_title(f"{case}, width {width}, {threads} threads")
        axes[1, column].set_xlabel("keys of the queue" if case == "moco" else "rows")
        axes[0, column].legend(fontsize=7)
    axes[0, 0].set_ylabel("seconds, forward and backward")
    axes[1, 0].set_ylabel("MB beyond the inputs")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['case']:7} {row['rows']:>6} x {row['width']:<4} {row['threads']} threads  {row['contender']:24}"
    if "failed" in row:
        return f"{head} {row['failed']}"
    low, high = row["interval_95"]
    return (
        f"{head} {1000 * row['seconds']:9.1f} ms  {row['extra_bytes'] / 1e6:8.1f} MB  "
        f"{row['times_ours']:6.2f} x cl's time ({low:.2f} to {high:.2f})"
    )
