"""The laboratory of collapse: what happens to a variant without the part that keeps it from collapsing.

Every file of gin/collapse is run beside its healthy twin, the recipe it includes, on the built-in data. A run is a row
of docs/collapse.jsonl, which stays valid until the code it uses changes; page and figure are drawn from the rows.

Whether a run collapsed is judged by what no monitor sees: features from which a held-out digit is not told better than
from the random start's.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cl import results

FOLDER = results.ROOT / "gin" / "collapse"
ROWS = results.ROOT / "docs" / "collapse.jsonl"
PAGE = results.ROOT / "docs" / "collapse.md"
FIGURE = results.ROOT / "docs" / "collapse.png"
POINT_FIGURE = results.ROOT / "docs" / "collapse_byol.png"
CURVES = ("loss", "feature_std", "effective_rank", "spectrum_tail", "alignment", "uniformity", "collapsed", "knn")
"""What is kept of a run's metrics, step by step."""
POINT = ("loss", "feature_std", "effective_rank", "knn")
"""What shows that a collapsed loss looks better than a healthy one."""
SHARE = 0.35
"""Of a recipe's steps: about a minute on two cores."""
MEASUREMENTS = 60
"""Of a run."""
HEAD = """# The laboratory of collapse

Every file of gin/collapse takes from a recipe what keeps it from collapsing, or puts something else there, and is run
beside the recipe itself: {share:.0%} of its steps on the built-in digits. *Collapsed* is judged by what the monitor
never sees: kNN on held-out digits, from the trunk's features, is not above that of the random start. *Noticed* is the
step from which `CollapseMonitor`, measuring {measurements} times in a run, says so. Written by
`python tools/collapse_lab.py` from docs/collapse.jsonl.

![loss, feature std, effective rank, spectrum tail, alignment, uniformity and kNN over steps](collapse.png)

"""


def ablations() -> dict[str, str]:
    """Names below gin/ of the ablations, and of their healthy twins."""
    twins = {}
    for path in sorted(FOLDER.glob("*.gin")):
        included = path
        while included.parent == FOLDER:
            line = next(line for line in included.read_text().splitlines() if line.startswith("include"))
            included = (included.parent / line.split("'")[1]).resolve()
        twins[f"collapse/{path.stem}"] = included.stem
    return twins


def rows() -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Writes a row in place of the one that its recipe and seed had."""
    others = [each for each in rows() if (each["recipe"], each["seed"]) != (row["recipe"], row["seed"])]
    every = sorted([*others, row], key=lambda each: (each["recipe"], each["seed"]))
    ROWS.write_text("".join(json.dumps(each) + "\n" for each in every))


def run(recipe: str, seed: int) -> dict[str, Any]:
    """A row: a short run, with its curves."""
    config = results.wired(recipe)
    steps = round(config.value("steps", 0) * SHARE)
    every = max(steps // MEASUREMENTS, 1)
    values = {
        "cl.train.steps": steps,
        "cl.train.log_every": every,
        "cl.train.evaluate_every": steps // 4,
        "CollapseMonitor.every": every,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        results.train(recipe, seed, out, [f"{name} = {value}" for name, value in values.items()])
        summary = json.loads((out / "summary.json").read_text())
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves = {name: [(line["step"], _short(line[name])) for line in lines if name in line] for name in CURVES}
    curves["knn"] = [(0, summary["knn_random_init"]), *curves["knn"], (steps, summary["knn"])]
    kept = ("seconds", "loss", "feature_std", "effective_rank", "knn", "knn_random_init", "knn_raw_pixels")
    return {
        "recipe": recipe,
        "seed": seed,
        "commit": results.commit(),
        "fingerprint": results.fingerprint(recipe),
        "steps": steps,
        **{name: _short(summary[name]) for name in kept},
        "curves": {name: curve for name, curve in curves.items() if curve},
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def collapsed(row: Mapping[str, Any]) -> bool:
    """Whether it learned nothing: kNN is not above the random start."""
    return row["knn"] <= row["knn_random_init"]


def noticed(row: Mapping[str, Any]) -> int | None:
    """The step from which the monitor said so for good or for a time; None: never."""
    return next((step for step, value in row["curves"]["collapsed"] if value), None)


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a table of all runs, ablations below their twins."""
    columns = "run | seed | loss | feature std | effective rank | tail | uniformity | kNN | random start"
    lines = [
        HEAD.format(share=SHARE, measurements=MEASUREMENTS),
        f"| {columns} | collapsed | noticed |",
        "|---" * 11 + "|",
    ]
    twins = ablations()
    for twin in dict.fromkeys(twins.values()):
        for name in (twin, *(each for each, its in twins.items() if its == twin)):
            for row in (row for row in found if row["recipe"] == name):
                lines.append(f"| {' | '.join(_cells(row))} |")
    titles = [f"- [{name}](../gin/{name}.gin): {_title(name)}" for name in twins]
    return "\n".join([*lines, "", "## What each is", "", *titles, ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    last = {name: curve[-1][1] for name, curve in row["curves"].items()}
    seen = noticed(row)
    return [
        f"[{row['recipe'].removeprefix('collapse/')}](../gin/{row['recipe']}.gin)",
        f"{row['seed']}",
        f"{last['loss']:.3g}",
        f"{last['feature_std']:.2g}",
        f"{last['effective_rank']:.1f}",
        f"{last['spectrum_tail']:.1g}",
        f"{last['uniformity']:.2f}",
        f"{row['knn']:.3f}",
        f"{row['knn_random_init']:.3f}",
        "**yes**" if collapsed(row) else "no",
        "-" if seen is None else f"step {seen} of {row['steps']:.0f}",
    ]


def _title(name: str) -> str:
    return (results.ROOT / "gin" / f"{name}.gin").read_text().splitlines()[0].removeprefix("# ")


def draw(found: Sequence[Mapping[str, Any]], every: Path, point: Path) -> None:
    """All curves, a column a healthy twin with its ablations; and of BYOL's what makes the point, for the README."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    families: dict[str, list[str]] = {}
    for name, twin in ablations().items():
        families.setdefault(twin, [twin]).append(name)
    shown = [name for name in CURVES if name != "collapsed"]
    size = (3.4 * len(families), 2.0 * len(shown))
    figure, axes = pyplot.subplots(len(shown), len(families), figsize=size, sharex="col", squeeze=False)
    for column, names in zip(axes.T, families.values(), strict=True):
        for axis, what in zip(column, shown, strict=True):
            _curves(axis, found, names, what)
        column[0].set_title(names[0])
        column[-1].set_xlabel("step")
        if column[-1].lines:
            column[-1].legend(fontsize=6)
    for axis in axes[shown.index("spectrum_tail")]:
        axis.set_yscale("symlog", linthresh=1e-6)
    figure.tight_layout()
    figure.savefig(every, dpi=75)

    figure, axes = pyplot.subplots(1, len(POINT), figsize=(3.4 * len(POINT), 3.2))
    for axis, what in zip(axes, POINT, strict=True):
        _curves(axis, found, families["byol"], what)
        axis.set_xlabel("step")
        if what in ("loss", "feature_std"):
            axis.set_yscale("log")
    axes[-1].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(point, dpi=90)
    pyplot.close("all")


def _curves(axis: Any, found: Sequence[Mapping[str, Any]], names: Sequence[str], what: str) -> None:
    """A measurement of a healthy twin, in black, and of its ablations, a colour each; seeds alike."""
    for number, name in enumerate(names):
        style = {"color": f"C{number - 1}" if number else "black", "linewidth": 1.2 if number else 2.0}
        for row in (row for row in found if row["recipe"] == name and what in row["curves"]):
            steps, values = zip(*row["curves"][what], strict=True)
            label = name.removeprefix(f"collapse/{names[0]}_").removeprefix("collapse/") if row["seed"] == 0 else None
            axis.plot(steps, values, label=label, **style)
    axis.set_ylabel(what.replace("_", " "))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what has no valid row, then writes page and figure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", nargs="+", default=[0], type=int, metavar="SEED")
    arguments.add_argument(
        "--only", nargs="+", metavar="NAME", help="such as byol or collapse/byol_no_norm; default all"
    )
    arguments.add_argument("--draw", action="store_true", help="run nothing")
    chosen = arguments.parse_args(argv)
    if find_spec("matplotlib") is None:  # before half an hour of runs
        arguments.error("the pictures need matplotlib: pip install '.[peers]'")
    twins = ablations()
    every = [*dict.fromkeys(twins.values()), *twins]
    if unknown := set(chosen.only or ()) - set(every):
        arguments.error(f"--only: there is no {min(unknown)}; there are {', '.join(every)}")
    names = chosen.only or every
    for seed in chosen.seeds if not chosen.draw else ():
        for name in names:
            now = (name, seed, results.fingerprint(name))
            known = any((row["recipe"], row["seed"], row["fingerprint"]) == now for row in rows())
            print(f"{name}, seed {seed}: {'valid, kept' if known else 'running'}", flush=True)
            if not known:
                keep(run(name, seed))
    PAGE.write_text(page(rows()))
    draw(rows(), FIGURE, POINT_FIGURE)
    return 0
