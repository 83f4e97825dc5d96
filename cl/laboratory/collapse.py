"""The laboratory of collapse: what happens to a variant without the part that keeps it from collapsing.

Every file of gin/collapse is run beside its healthy twin, the recipe it includes, on the built-in data. A run is a row
of docs/collapse.jsonl, which stays valid until the code it uses changes; page and figure are drawn from the rows. The
same runs say what `CollapseMonitor` notices, and whether it cries wolf, on seeds that had no part in its thresholds.

Whether a run collapsed is judged by what no monitor sees: features from which a held-out digit is not told better than
from the random start's.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cl import results
from cl.laboratory import linear_byol
from cl.laboratory.runs import SHARE, Arm, Row, Rows, short

FOLDER = results.ROOT / "gin" / "collapse"
ROWS = Rows(results.ROOT / "docs" / "collapse.jsonl")
PAGE = results.ROOT / "docs" / "collapse.md"
FIGURE = results.ROOT / "docs" / "collapse.png"
POINT_FIGURE = results.ROOT / "docs" / "collapse_byol.png"
LINEAR_FIGURE = results.ROOT / "docs" / "collapse_linear.png"
CURVES = ("loss", "feature_std", "effective_rank", "spectrum_tail", "alignment", "uniformity", "collapsed", "knn")
"""What is kept of a run's metrics, step by step."""
POINT = ("loss", "feature_std", "effective_rank", "knn")
"""What shows that a collapsed loss looks better than a healthy one."""
MEASUREMENTS = 60
"""Of a run, at least."""
RECIPES = ("simclr", "moco_v2", "clip", "byol", "supcon")
"""Healthy runs beside the ablations' twins."""
SEEDS = (0, 1)
"""Run where nobody says which: those that the monitor's thresholds were fixed on."""
SEEN = range(7)
"""Seeds of which runs had been looked at when a threshold was last moved."""
HEAD = """# The laboratory of collapse

Every file of gin/collapse takes from a recipe what keeps it from collapsing, or puts something else there, and is run
beside the recipe itself: {share:.0%} of its steps on the built-in digits. *Collapsed* is judged by what the monitor
never sees: kNN on held-out digits, from the trunk's features, is not above that of the random start. *Noticed* is the
step from which `CollapseMonitor` says so, measuring at least {measurements} times a run, where recipes measure every 20
steps. Loss to uniformity are means over the seeds. Written by `python tools/collapse_lab.py` from docs/collapse.jsonl.

![loss, feature std, effective rank, spectrum tail, alignment, uniformity and kNN over steps](collapse.png)

"""

GUARD = """
## The guard on other seeds

The monitor's thresholds are fixed on seeds 0 and 1; runs of 2 to {last} had been seen when the std's was last moved,
and are left out. On the others, of runs that collapsed: how many it noticed, and from which step. Of runs that did not:
how many it called collapsed all the same. kNN is good to 0.01, so an ablation that did not collapse by the judgement
above may have nearly done so: what the loss sees is a point, though its features tell a little more than the random
start's. A collapse to a few directions is told by the rank alone, below 2: what fell to four or six, and still learned
something, is not called one. The tail and the uniformity are logged, and bounded only by who asks for it: a tail is
higher in runs that became a point than in healthy ones, and of fewer than d / 2 rows (MoCo's) there is none.

Where all rows are one point InfoNCE is the log of the number of keys, DCL that of the negatives, and the alignment 0,
its least: tests/collapse holds every loss to its value and its gradient there. So SimCLR's own loss, log(2 B - 1) of a
batch of B, would have told of its run without negatives, whose loss fell to nothing.

Runs of older code, on this page: {older} of {all}.

| run | seeds | collapsed | noticed of those | from step | noticed of the others |
|---|---|---|---|---|---|
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


def families() -> dict[str, list[str]]:
    """The healthy recipes, each first of a list of it and its ablations."""
    twins = ablations()
    return {
        recipe: [recipe, *(name for name, twin in twins.items() if twin == recipe)]
        for recipe in dict.fromkeys([*twins.values(), *RECIPES])
    }


def arms() -> dict[str, list[Arm]]:
    """By name below gin/: the healthy recipes and all ablations."""
    return {name: [Arm(name)] for names in families().values() for name in names}


def run(arm: Arm, seed: int, threads: int) -> Row:
    """A row: a short run, with its curves."""
    steps = arm.length
    every = max(steps // MEASUREMENTS, 1)
    also = {"cl.train.log_every": every, "cl.train.evaluate_every": steps // 4, "CollapseMonitor.every": every}
    row, lines = arm.run(seed, threads, [f"{name} = {value}" for name, value in also.items()])
    curves = {name: [(line["step"], short(line[name])) for line in lines if name in line] for name in CURVES}
    curves["knn"] = [(0, row["knn_random_init"]), *curves["knn"], (steps, row["knn"])]
    return row | {"curves": {name: curve for name, curve in curves.items() if curve}}


def collapsed(row: Mapping[str, Any]) -> bool:
    """Whether it learned nothing: kNN is not above the random start."""
    return row["knn"] <= row["knn_random_init"]


def noticed(row: Mapping[str, Any]) -> int | None:
    """The step from which the monitor said so for good or for a time; None: never."""
    return next((step for step, value in row["curves"]["collapsed"] if value), None)


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line a recipe, ablations below their twins: means over the seeds, and how many collapsed."""
    columns = "run | seeds | loss | feature std | effective rank | tail | uniformity | kNN | random start"
    lines = [
        HEAD.format(share=SHARE, measurements=MEASUREMENTS),
        f"| {columns} | collapsed | noticed |",
        "|---" * 11 + "|",
    ]
    for name in arms():
        if mine := [row for row in found if row["recipe"] == name]:
            lines.append(f"| {' | '.join(_cells(name, mine))} |")
    titles = [f"- [{name}](../gin/{name}.gin): {_title(name)}" for name in ablations()]
    return "\n".join(
        [*lines, *_guard(found), *linear_byol.section(LINEAR_FIGURE.name), "", "## What each is", "", *titles, ""]
    )


def _guard(found: Sequence[Mapping[str, Any]]) -> list[str]:
    now = {name: arm.fingerprint for name, (arm,) in arms().items()}
    older = sum(row.get("fingerprint") != now[row["recipe"]] for row in found)
    lines = GUARD.format(last=max(SEEN), older=older, all=len(found)).splitlines()
    for name in arms():
        mine = [row for row in found if row["recipe"] == name and row["seed"] not in SEEN]
        fell, rose = ([row for row in mine if collapsed(row) == judged] for judged in (True, False))
        steps = [step for row in fell if (step := noticed(row)) is not None]
        wrong = sum(noticed(row) is not None for row in rose)
        if mine:
            when = " to ".join(_ends(steps, "d")) if steps else "-"
            cells = f"{len(fell)} | {len(steps) if fell else '-'} | {when} | {wrong if rose else '-'}"
            lines.append(f"| {_link(name)} | {len(mine)} | {cells} |")
    return lines


def _cells(name: str, mine: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(what: str) -> float:
        return statistics.mean(row["curves"][what][-1][1] for row in mine)

    fell, knn = sum(map(collapsed, mine)), [row["knn"] for row in mine]
    seen = sorted(step for row in mine if (step := noticed(row)) is not None)
    when = (
        "-"
        if not seen
        else f"{len(seen)} of {len(mine)}, step {' to '.join(_ends(seen, 'd'))} of {mine[0]['steps']:.0f}"
    )
    return [
        _link(name),
        f"{len(mine)}",
        f"{mean('loss'):.3g}",
        f"{mean('feature_std'):.2g}",
        f"{mean('effective_rank'):.1f}",
        f"{mean('spectrum_tail'):.1g}",
        f"{mean('uniformity'):.2f}",
        " to ".join(_ends(knn, ".3f")),
        " to ".join(_ends([row["knn_random_init"] for row in mine], ".3f")),
        f"**{fell} of {len(mine)}**" if fell else "no",
        when,
    ]


def _link(name: str) -> str:
    return f"[{name.removeprefix('collapse/')}](../gin/{name}.gin)"


def _ends(values: Sequence[int] | Sequence[float], form: str) -> list[str]:
    # The least and the most, once where they are the same.
    return list(dict.fromkeys(format(end(values), form) for end in (min, max)))


def _title(name: str) -> str:
    return (results.ROOT / "gin" / f"{name}.gin").read_text().splitlines()[0].removeprefix("# ")


def draw(found: Sequence[Mapping[str, Any]], every: Path, point: Path) -> None:
    """All curves, a column a healthy recipe with its ablations; and of BYOL's what makes the point, for the README."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    columns = [names for names in families().values() if len(names) > 1]
    shown = [name for name in CURVES if name != "collapsed"]
    size = (3.4 * len(columns), 2.0 * len(shown))
    figure, axes = pyplot.subplots(len(shown), len(columns), figsize=size, sharex="col", squeeze=False)
    for column, names in zip(axes.T, columns, strict=True):
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
        _curves(axis, found, families()["byol"], what)
        axis.set_xlabel("step")
        if what in ("loss", "feature_std"):
            axis.set_yscale("log")
    axes[-1].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(point, dpi=90)
    pyplot.close("all")


def _curves(axis: Any, found: Sequence[Mapping[str, Any]], names: Sequence[str], what: str) -> None:
    """A measurement of a healthy twin, in black, and of its ablations, a colour each; seeds but the first are pale."""
    for number, name in enumerate(names):
        style = {"color": f"C{number - 1}" if number else "black", "linewidth": 1.2 if number else 2.0}
        for row in (row for row in found if row["recipe"] == name and what in row["curves"]):
            steps, values = zip(*row["curves"][what], strict=True)
            label = name.removeprefix(f"collapse/{names[0]}_").removeprefix("collapse/")
            seed = {"label": label} if row["seed"] == 0 else {"alpha": 0.25}
            axis.plot(steps, values, **style, **seed)
    axis.set_ylabel(what.replace("_", " "))


def write() -> None:
    """Page and figures, from the rows."""
    found = [row for each in arms().values() for arm in each for row in ROWS.of(arm)]
    PAGE.write_text(page(found))
    draw(found, FIGURE, POINT_FIGURE)
    linear_byol.draw(LINEAR_FIGURE)
