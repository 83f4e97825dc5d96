"""Short runs on the built-in data: a row each, which stays valid until the code or the configuration changes."""

import inspect
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cl import results

Row = dict[str, Any]
Look = Callable[[Path], Mapping[str, float]]
"""What is measured in the folder of a run that has ended."""

SHARE = 0.35
"""Of a recipe's steps: about a minute on two cores."""


@dataclass(frozen=True)
class Arm:
    """A recipe, changed by bindings, and shortened.

    Attributes:
        recipe: its name below gin/.
        params: bindings over it.
        steps: how many; None: by `share`.
        look: measured at the end.
        share: of the recipe's steps.
    """

    recipe: str
    params: tuple[str, ...] = ()
    steps: int | None = None
    look: Look | None = None
    share: float = SHARE

    @cached_property
    def length(self) -> int:
        """Steps of a run."""
        return self.steps or round(results.wired(self.recipe).value("steps", 0) * self.share)

    @cached_property
    def bindings(self) -> list[str]:
        """The bindings over the recipe, its length among them."""
        return [f"cl.train.steps = {self.length}", *self.params]

    @cached_property
    def fingerprint(self) -> str:
        """Of its code and configuration."""
        also = [Path(inspect.getfile(self.look))] if self.look else []
        return results.fingerprint(self.recipe, self.bindings, also)

    def valid(self, row: Row) -> bool:
        """Whether a row is of the code and the configuration as they are now."""
        return row["fingerprint"] == self.fingerprint

    def run(self, seed: int, threads: int, also: Sequence[str] = ()) -> tuple[Row, list[dict[str, Any]]]:
        """A row with what the run's summary says, and the lines of its metrics; `also` binds what is measured when."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            results.train(self.recipe, seed, out, [*self.bindings, *also], threads)
            summary, bfloat16 = results.outcome(out)
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            looked = self.look(out) if self.look else {}
        figures = {name: short(value) for name, value in (summary | dict(looked)).items()}
        kept = {"recipe": self.recipe, "bindings": self.bindings, "seed": seed, "commit": results.commit()}
        return kept | {"bfloat16": bfloat16, "fingerprint": self.fingerprint} | figures, lines


def short(value: Any) -> Any:
    """Four digits of a number; anything else as it is."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


@dataclass(frozen=True)
class Rows:
    """A file of rows, a JSON line each; a recipe, its bindings and a seed have one."""

    path: Path

    def all(self) -> list[Row]:
        """Those so far."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def of(self, arm: Arm) -> list[Row]:
        """An arm's, by seed, those of older code too."""
        wanted = (arm.recipe, arm.bindings)
        return [row for row in self.all() if (row["recipe"], row["bindings"]) == wanted]

    def keep(self, row: Row) -> None:
        """Writes a row in place of the one there was."""
        every = {_key(each): each for each in [*self.all(), row]}
        self.path.write_text("".join(json.dumps(every[key]) + "\n" for key in sorted(every)))

    def fill(
        self, wanted: Iterable[tuple[Arm, int]], run: Callable[[Arm, int, int], Row], pool: Executor, threads: int
    ) -> None:
        """Runs the (arm, seed) that have no valid row, and keeps each row as it comes.

        The first error ends it, once the runs that were under way have ended and are kept.

        Args:
            wanted: arms and seeds.
            run: (arm, seed, threads) to a row.
            pool: where. Of processes, as reading a configuration is a whole process's affair.
            threads: of a run.
        """
        known = {(row["fingerprint"], row["seed"]) for row in self.all()}
        missing = [(arm, seed) for arm, seed in dict.fromkeys(wanted) if (arm.fingerprint, seed) not in known]
        print(f"{len(missing)} runs to do", flush=True)
        running = {pool.submit(run, arm, seed, threads): (arm, seed) for arm, seed in missing}
        try:
            for number, done in enumerate(as_completed(running), 1):
                arm, seed = running[done]
                self.keep(done.result())
                print(f"{number}/{len(missing)}: {' '.join([arm.recipe, *arm.params])}, seed {seed}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            for done in running:
                if not done.cancelled() and done.exception() is None:
                    self.keep(done.result())
            raise


def _key(row: Row) -> tuple[str, tuple[str, ...], int]:
    return row["recipe"], tuple(row["bindings"]), row["seed"]
