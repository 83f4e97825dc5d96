"""What a person sees of a run, and the files it is written to."""

import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cl.distributed import on_first
from cl.durable import replace_file
from cl.errors import CheckpointError
from cl.run_folder import refused


class Report:
    """Progress on a terminal, plain lines elsewhere; `metrics.jsonl` and `train.log`, with all warnings, always.

    Args:
        folder: where the two files are.
        total: steps of the whole run.
        done: steps of it that an earlier start made; what it measured at later ones is dropped.
        evaluates: whether an evaluation of step `done` comes, again if there was one.
        quiet: show and write nothing: another process does.

    Making one is a call of all processes, and so is `table`: where the disk refuses, all of them raise CheckpointError.
    Of what `say` and `advance` could not write `record` speaks, or `table`: one process alone must not end there.
    """

    def __init__(self, folder: Path, total: int, done: int = 0, evaluates: bool = False, quiet: bool = False):
        self.console = Console(highlight=False, quiet=quiet)
        on_first(partial(_made_ready, folder, done, total, evaluates))
        names = (Path(os.devnull) if quiet else folder / name for name in ("train.log", "metrics.jsonl"))
        self.log, self.metrics = (name.open("a") for name in names)
        self.total = total
        self.first = done
        self.shown: dict[str, float] = {}
        self.started = self.last_line = time.monotonic()
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("train", total=total, completed=done, numbers="")
        self.refusal: CheckpointError | None = None
        self.warnings = _ToFile(self._write, self.log)

    def __enter__(self) -> "Report":
        logging.getLogger("cl").addHandler(self.warnings)
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("cl").removeHandler(self.warnings)
        self.progress.stop()
        for file in (self.log, self.metrics):
            with suppress(OSError):  # said before
                file.close()

    def say(self, line: str) -> None:
        """A line for the person, and for the log."""
        self.console.print(line, markup=False)
        self._write(self.log, line + "\n")

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl: what was measured after applied step `step` (counted from 1).

        Raises:
            CheckpointError: the disk refuses this, or refused something before.
        """
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._write(self.metrics, json.dumps({"step": step, **finite}) + "\n")
        self._check()

    def advance(self, step: int, metrics: dict[str, float]) -> None:
        """Shows progress; without a terminal a line at every twentieth of the run, or every half minute."""
        self.shown |= {name: value for name, value in metrics.items() if name in SHOWN}
        numbers = "  ".join(f"{SHOWN[name]} {self.shown[name]:.3f}" for name in SHOWN if name in self.shown)
        self.progress.update(self.task, completed=step, numbers=numbers)
        now = time.monotonic()
        if self.console.is_terminal or not (
            now - self.last_line > 30 or step * 20 // self.total > (step - 1) * 20 // self.total
        ):
            return
        self.last_line = now
        left = (now - self.started) / max(step - self.first, 1) * (self.total - step)
        self.say(f"step {step:>6}/{self.total}  eta {left:4.0f} s  {numbers}")

    def table(self, title: str, rows: dict[str, Any]) -> None:
        """The closing table."""
        table = Table(title=title, show_header=False)
        for name, value in rows.items():
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
        self.progress.stop()
        self.console.print(table)
        with self.console.capture() as capture:
            self.console.print(table)
        self._write(self.log, capture.get())
        on_first(self._check)

    def _write(self, file: TextIO, text: str) -> None:
        try:
            file.write(text)
            file.flush()
        except OSError as error:
            self.refusal = self.refusal or refused(Path(file.name), error)

    def _check(self) -> None:
        if self.refusal:
            raise self.refusal


class _ToFile(logging.Handler):
    """Warnings to a file: unlike the library's own, with the disk's refusals told."""

    def __init__(self, write: Callable[[TextIO, str], None], file: TextIO):
        super().__init__(logging.WARNING)
        self.write = write
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.file, record.getMessage() + "\n")


def _made_ready(folder: Path, done: int, total: int, evaluates: bool) -> None:
    """The two files, to append to; none ends with a line that a full disk cut short.

    Raises:
        CheckpointError: the disk refuses.
    """
    measured = partial(_until, done=done, finished=done == total, evaluates=evaluates)
    ready = {"train.log": _whole, "metrics.jsonl": measured}
    for name, kept in ready.items():
        path = folder / name
        try:
            path.open("a").close()
            content = path.read_bytes() if path.is_file() else b""
            if (left := kept(content)) != content:
                replace_file(path, left)
        except OSError as error:
            raise refused(path, error) from error


def _whole(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _until(content: bytes, done: int, finished: bool, evaluates: bool) -> bytes:
    """Its lines of steps up to `done`, but for those that the run makes again.

    One that goes on from an older checkpoint makes later steps again. Evaluations come after a step's checkpoint, so
    it makes those of that step again too; with nothing left to do, its test figures.
    """
    lines = content.splitlines(keepends=True)
    found = [_parsed(line) for line in lines]
    if lost := sum(each is None for each in found[:-1]):  # the last may have been cut short
        logging.getLogger(__name__).warning("metrics.jsonl: %d lines cannot be read, and are left out.", lost)
    return b"".join(
        line
        for line, each in zip(lines, found, strict=True)
        if each and (each["step"] < done or (each["step"] == done and not _again(each, finished, evaluates)))
    )


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A whole line that was written."""
    try:
        found = json.loads(line)
        return {**found, "step": int(found["step"])} if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError):
        return None


def _again(line: dict[str, Any], finished: bool, evaluates: bool) -> bool:
    tests = all(name == "step" or name.startswith("test_") for name in line)
    return tests if finished else evaluates and "loss" not in line and not tests


SHOWN = {
    "loss": "loss",
    "feature_std": "std",
    "effective_rank": "rank",
    "knn": "kNN",
    "zero_shot": "zero-shot",
    "recall_at_1": "recall@1",
}
"""What stands on the progress line, and how it is called there."""
