"""The page of variants: what changes from one to the next, read from the gin files, and what each reached.

Figures are rows of `docs/results.jsonl`, as `cl.results` measures them.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import results
from cl.components import Encoder
from cl.composition.parts import registered
from cl.wiring.tree import Node
from cl.wiring.values import leaves

PAGE = results.ROOT / "docs" / "variants.md"
HEAD = """# Variants

A variant is a gin file: what is not named is as in the file that it includes. Written from gin/*.gin by
`python tools/variants.py`; `--measure` trains those without a valid row first, in minutes each. Figures are on test
data, of seed 0 (the recipes of the README's table have three seeds there); an empty place was not measured. The
commit is that of the code that was trained: where kernels have changed since, figures are good to their rounding, some
0.01 of kNN. Recipes compute in bfloat16 where the processor does. LiT's kNN is that of the SimCLR run whose trunk it
locks, and its seconds are without that run.

"""
RESULT = "# Result of seed 0 (docs/variants.md): "
MONITOR = "CollapseMonitor"
REACHED = (
    "figure",
    "raw pixels or chance",
    "random start",
    "feature std",
    "effective rank",
    "samples/s",
    "seconds",
    "precision",
    "commit",
)
"""What is said of a run."""


@dataclass(frozen=True)
class Variant:
    """What a recipe's file says, and what it comes to.

    Attributes:
        name: of the file.
        title: the first line of its header.
        over: the recipe that it includes; None: fragments alone.
        lines: of bindings of its own.
        parts: by column, what is wired together.
        keeper: what keeps it from collapsing.
    """

    name: str
    title: str
    over: str | None
    lines: int
    parts: Mapping[str, str]
    keeper: str


def variants() -> list[Variant]:
    """Every recipe of gin/, the built-in data's first, those without another recipe under them before the others."""
    found = [read(path) for path in sorted((results.ROOT / "gin").glob("*.gin")) if is_recipe(path)]
    return sorted(found, key=lambda each: (each.name.startswith("openmoji"), each.over is not None))


def is_recipe(path: Path) -> bool:
    """Whether a file is one, by its header's launch line."""
    return "\n#   python tools/train.py" in path.read_text()


def read(path: Path) -> Variant:
    """A recipe as it is wired; nothing is built."""
    text = path.read_text()
    own = [line for line in text.splitlines() if line and not line.startswith(("#", "include"))]
    included = [name for name in re.findall(r"include '(\w+)\.gin'", text) if is_recipe(path.with_name(f"{name}.gin"))]
    root = results.wired(path.stem).root
    objective = root.arguments["objective"]
    terms = [node for node in objective.nodes() if node.reference.selector == "Term"]
    parts = {
        "encoder": _nested(objective.arguments["encoder"], registered(Encoder)),
        "what the queries meet": "; ".join(_provider(term.arguments["provider"]) for term in terms),
        "groups": _short(root.arguments["views"].arguments["group"]),
        "loss": "; ".join(_short(term.arguments["loss"]) for term in terms),
        "hooks": ", ".join(name for name in map(_short, root.arguments["hooks"]) if name != MONITOR) or "-",
    }
    title = text.splitlines()[0].removeprefix("# ")
    keeper = _keeper(objective, terms)
    return Variant(path.stem, title, included[0] if included else None, len(own), parts, keeper)


def _short(node: Node) -> str:
    return node.reference.selector


def _children(node: Node) -> list[Node]:
    return [leaf for leaf in leaves(list(node.arguments.values())) if isinstance(leaf, Node)]


def _nested(node: Node, names: Sequence[str]) -> str:
    inner = [_nested(child, names) for child in _children(node) if _short(child) in names]
    extra = ["predictor"] if node.arguments.get("predictors") else []
    extra += ["no stop-gradient"] if node.arguments.get("stop_gradient") is False else []
    extra += ["rows of free length"] if node.arguments.get("unit_norm") is False else []
    said = [*inner, *extra]
    return f"{_short(node)}({', '.join(said)})" if said else _short(node)


def _provider(node: Node) -> str:
    inner = [_provider(child) for child in _children(node)]
    if "same_view" in node.arguments:
        inner.append("all rows" if node.arguments["same_view"] else "the other view")
    return f"{_short(node)}({', '.join(inner)})" if inner else _short(node)


def _keeper(objective: Node, terms: Sequence[Node]) -> str:
    keepers = []
    for term in terms:
        loss = term.arguments["loss"].component.wrapped
        if "negatives" in loss.needs:
            keepers.append("negatives")
        elif "centre" in loss.provides:
            keepers.append("a centre, and a sharper teacher")
        elif getattr(loss, "spreads", True):  # what depends on its arguments spreads by default
            keepers.append("the batch's statistics")
        else:
            slow = any(_short(node) == "Momentum" for node in objective.nodes())
            keepers.append(f"predictor, {'slow target' if slow else 'stop-gradient'}")
    if any(_short(node) == "DecorrelatedBatchNorm" for node in objective.nodes()):
        keepers.append("whitened projector")
    return ", ".join(dict.fromkeys(keepers))


def header(text: str, row: Mapping[str, Any]) -> str:
    """A recipe's text, which says at the end of its header what a run reached."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(RESULT)]
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    said = dict(zip(REACHED, _reached(row), strict=True))
    return "".join([*lines[:end], f"{RESULT}{said['figure']} on test, in {said['seconds']} s.\n", *lines[end:]])


def page(found: Sequence[Variant], rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a table of what is wired, and one of what was reached."""
    columns = list(found[0].parts)
    lines = [HEAD + f"| variant | over | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for each in found:
        cells = " | ".join(each.parts[column] for column in columns)
        over = f"[{each.over}](../gin/{each.over}.gin)" if each.over else "-"
        lines.append(f"| [{each.name}](../gin/{each.name}.gin) | {over} | {cells} |")
    columns = ["variant", "own lines", "kept from collapse by", *REACHED, "what it is"]
    lines += ["", "## What each reached", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for each in found:
        mine = [row for row in rows if row["recipe"] == each.name and row["seed"] == 0]
        reached = _reached(mine[0]) if mine else [""] * len(REACHED)
        lines.append(f"| {' | '.join([each.name, str(each.lines), each.keeper, *reached, each.title])} |")
    return "\n".join([*lines, *_targets(found, rows)]) + "\n"


def _targets(found: Sequence[Variant], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was aimed at on the digits, and what falls short of it."""
    of = {row["recipe"]: row for row in rows if row["seed"] == 0 and not row["recipe"].startswith("openmoji")}
    told = {each.name for each in found if each.parts["groups"] == "ByLabel"}
    supervised = {name: row["knn"] for name, row in of.items() if name in told}
    alone = {name: row["knn"] for name, row in of.items() if name not in told and "zero_shot" not in row}
    if not alone or not supervised:
        return []
    best, longest = max(alone, key=alone.__getitem__), max(of, key=lambda name: of[name]["wall_seconds"])
    short = [f"{name} {knn:.3f}" for name, knn in alone.items() if knn < 0.8] + ["the best"] * (alone[best] < 0.92)
    short += [f"{name} {knn:.3f}" for name, knn in supervised.items() if knn < 0.95]
    short += [f"{name} {row['wall_seconds']} s" for name, row in of.items() if row["wall_seconds"] > 180]
    return [
        "",
        "Aimed at on the digits: kNN of at least 0.80 without labels or captions "
        f"(lowest {min(alone.values()):.3f}), of the best of these 0.92 ({best}, {alone[best]:.3f}), of at least 0.95 "
        f"with labels (lowest {min(supervised.values()):.3f}), each in at most 180 s "
        f"({longest}, {of[longest]['wall_seconds']} s). Short of it: {', '.join(short) or 'none'}.",
    ]


def _reached(row: Mapping[str, Any]) -> list[str]:
    figures = [figure for figure in ("knn", "zero_shot") if figure in row]
    return [
        ", ".join(f"{results.FIGURES[figure][0]} {row[figure]:.3f}" for figure in figures),
        ", ".join(f"{row[results.FIGURES[figure][1]]:.3f}" for figure in figures),
        ", ".join(f"{row[f'{figure}_random_init']:.3f}" for figure in figures),
        f"{row['feature_std']:.3f}",
        f"{row['effective_rank']:.1f}",
        f"{row['images_per_second']:.0f}",
        f"{row['wall_seconds']}",
        {True: "bfloat16", False: "float32", None: ""}[row.get("bfloat16")],
        row["commit"],
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page and the recipes' headers, after measuring what was asked for."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--measure", nargs="*", metavar="RECIPE", help="train these, or all without a valid row")
    chosen = arguments.parse_args(argv)
    found = variants()
    if chosen.measure is not None:
        for recipe in chosen.measure or [each.name for each in found if not results.valid(each.name, 0)]:
            print(f"{recipe}: running", flush=True)
            results.keep(results.measure(recipe, 0))
            PAGE.write_text(page(found, results.rows()))
    PAGE.write_text(page(found, results.rows()))
    for row in results.rows():
        if row["seed"] == 0:
            path = results.ROOT / "gin" / f"{row['recipe']}.gin"
            path.write_text(header(path.read_text(), row))
    return 0
