"""The table of results: recipes at several seeds, one row a run, resumable.

A row holds the commit, the seed, the machine's state and a fingerprint of the code and configuration it came from; it
stays valid until one of those changes. Comments, docstrings and formatting are not part of the fingerprint.
"""

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cl import wiring

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "docs" / "results.jsonl"
TABLE = ROOT / "README.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
MEASURED = ("views", "encoders", "negatives", "losses", "hooks", "engines", "optim", "evaluation")
MEASURED += ("types", "contrast", "matches", "objective", "train", "distributed", "precision")
"""The parts of cl that figures depend on."""
RECIPES: dict[str, tuple[str, ...]] = {
    "simclr": ("knn",),
    "moco_v2": ("knn",),
    "byol": ("knn",),
    "supcon": ("knn",),
    "supcon_queue": ("knn",),
    "clip": ("zero_shot",),
    "openmoji_moco_v2": ("knn",),
    "openmoji_clip": ("knn", "recall_at_1_image_to_text", "recall_at_1_text_to_image"),
}
"""Recipe to the figures that are quoted for it."""
FIGURES = {
    "knn": ("kNN", "knn_raw_pixels"),
    "zero_shot": ("zero-shot", "zero_shot_chance"),
    "recall_at_1_image_to_text": ("recall@1 of the name", "recall_at_1_chance"),
    "recall_at_1_text_to_image": ("recall@1 of the picture", "recall_at_1_chance"),
}
"""What a figure is called, and what there is without any network."""


BEGINS: dict[str, tuple[str, str, str]] = {"lit": ("TRUNK", "simclr", "trunk.image.safetensors")}
"""Recipes that begin with what a run of another leaves: the macro that names it, that recipe, and the file."""


def wired(recipe: str, params: Sequence[str] = ()) -> wiring.Wiring:
    """A recipe's configuration, with bindings over it; what it begins with is not there."""
    macro = [f"{BEGINS[recipe][0]} = ''"] if recipe in BEGINS else []
    return wiring.read([ROOT / "gin" / f"{recipe}.gin"], [*macro, *params])


def fingerprint(recipe: str, params: Sequence[str] = (), also: Sequence[Path] = ()) -> str:
    """Of a recipe's whole configuration, of the code of its components with all that they import, and of files."""
    config = wired(recipe, params)
    digest = hashlib.sha256(config.config_str().encode())
    for path in [*_sources(config.modules()), *also]:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                value = body[0].value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    body.pop(0)
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def _sources(modules: Iterable[str]) -> list[Path]:
    """The files of modules and of all that they import, as far as they are `MEASURED`."""
    waiting, found = list(modules), dict[str, Path]()
    while waiting:
        module = waiting.pop()
        package, _, rest = module.partition(".")
        path = ROOT / f"{module.replace('.', '/')}.py"
        if module in found or package != "cl" or rest.split(".")[0] not in MEASURED or not path.exists():
            continue
        found[module] = path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                waiting += [name.name for name in node.names]
    return [found[module] for module in sorted(found)]


def rows() -> list[dict[str, Any]]:
    """All rows so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def measure(recipe: str, seed: int) -> dict[str, Any]:
    """Trains a recipe once, in a process of its own, after the one that it begins with."""
    with tempfile.TemporaryDirectory() as folder:
        params = []
        if recipe in BEGINS:
            macro, before, file = BEGINS[recipe]
            train(before, seed, Path(folder) / "before", [])
            params = [f"{macro} = '{Path(folder) / 'before' / file}'"]
        started = time.monotonic()
        train(recipe, seed, Path(folder) / "run", params)
        seconds = round(time.monotonic() - started)
        summary, bfloat16 = outcome(Path(folder) / "run")
    return {
        "recipe": recipe,
        "wall_seconds": seconds,
        "seed": seed,
        "commit": commit(),
        "fingerprint": fingerprint(recipe),
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "bfloat16": bfloat16,
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in summary.items()},
    }


def train(recipe: str, seed: int, out: Path, params: Sequence[str], threads: int | None = None) -> None:
    """Trains a recipe by the command line, in a process of its own.

    With `threads` it is one of several at a time: it takes no more of them, and keeps its progress to itself.
    """
    command = [sys.executable, ROOT / "tools" / "train.py", "--gin", ROOT / "gin" / f"{recipe}.gin", "--out", out]
    bound = [word for param in (f"cl.train.seed = {seed}", *params) for word in ("--param", param)]
    alone = threads is None
    environment = os.environ if alone else os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([*command, *bound], check=True, env=environment, stdout=None if alone else subprocess.DEVNULL)


def outcome(run: Path) -> tuple[dict[str, Any], bool]:
    """A run's summary, and whether its machine computes in bfloat16, as recipes then do."""
    summary, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "environment"))
    return summary, environment["bfloat16"]


def valid(recipe: str, seed: int) -> bool:
    """Whether there is a row, of the code and the configuration as they are now."""
    now = (recipe, seed, fingerprint(recipe))
    return any((row["recipe"], row["seed"], row["fingerprint"]) == now for row in rows())


def keep(row: dict[str, Any]) -> None:
    """Writes a row in place of the one that its recipe and seed had."""
    others = [each for each in rows() if (each["recipe"], each["seed"]) != (row["recipe"], row["seed"])]
    order = [*RECIPES, *sorted({each["recipe"] for each in [*others, row]} - set(RECIPES))]
    every = sorted([*others, row], key=lambda each: (order.index(each["recipe"]), each["seed"]))
    ROWS.parent.mkdir(exist_ok=True)
    ROWS.write_text("".join(json.dumps(each) + "\n" for each in every))


def table(found: Sequence[dict[str, Any]]) -> str:
    """The README's table: the worst seed is the one quoted."""
    lines = [
        "| recipe | test figure, worst seed | all seeds | raw pixels or chance | random start | seconds | samples/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe, figures in RECIPES.items():
        mine = sorted((row for row in found if row["recipe"] == recipe), key=lambda row: row["seed"])
        for figure in figures if mine else ():
            values = [row[figure] for row in mine]
            name, without = FIGURES[figure]
            lines.append(
                f"| [{recipe}](gin/{recipe}.gin) | {name} **{min(values):.3f}** | "
                f"{', '.join(f'{value:.3f}' for value in values)} | {mine[0][without]:.3f} | "
                f"{max(row[f'{figure}_random_init'] for row in mine):.3f} | "
                f"{max(row['wall_seconds'] for row in mine)} | {min(row['images_per_second'] for row in mine):.0f} |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what has no valid row, then writes the table into the README."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES, metavar="RECIPE")
    arguments.add_argument("--seeds", nargs="+", default=[0, 1, 2], type=int, metavar="SEED")
    chosen = arguments.parse_args(argv)
    for recipe in chosen.recipes:
        for seed in chosen.seeds:
            known = valid(recipe, seed)
            print(f"{recipe}, seed {seed}: {'valid, kept' if known else 'running'}", flush=True)
            if not known:
                keep(measure(recipe, seed))
            text = TABLE.read_text()
            head, tail = text.split(BEGIN)[0], text.split(END)[1]
            TABLE.write_text(f"{head}{BEGIN}\n{table(rows())}\n{END}{tail}")
    return 0


def commit() -> str:
    """That of the work tree, with a plus where code or recipes were changed since."""
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "cl", "gin") else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
