"""What a person sees of a run, and the files it is written to."""

import json
import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cl.checkpoint import replace_file
from cl.run_folder import refused


class Report:
    """Progress on a terminal, plain lines elsewhere; `metrics.jsonl` and `train.log`, with all warnings, always.

    Args:
        folder: where the two files are.
        total: steps of the whole run.
        done: steps of it that an earlier start made; what it measured at later ones is dropped.
        quiet: show and write nothing: another process does.

    Raises:
        CheckpointError: by whatever writes, where the disk refuses.
    """

    def __init__(self, folder: Path, total: int, done: int = 0, quiet: bool = False):
        self.console = Console(highlight=False, quiet=quiet)
        if not quiet:
            _until(folder / "metrics.jsonl", done)
        self.log, self.metrics = (
            _opened(Path(os.devnull) if quiet else folder / name) for name in ("train.log", "metrics.jsonl")
        )
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
        self.warnings = _ToFile(self.log)

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
        _append(self.log, line + "\n")

    def record(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl: what was measured after applied step `step` (counted from 1)."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        _append(self.metrics, json.dumps({"step": step, **finite}) + "\n")

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
        _append(self.log, capture.get())


class _ToFile(logging.Handler):
    """Warnings to a file: unlike the library's own, with the disk's refusals told."""

    def __init__(self, file: TextIO):
        super().__init__(logging.WARNING)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        _append(self.file, record.getMessage() + "\n")


def _until(metrics: Path, done: int) -> None:
    """Leaves the lines of steps up to `done`: a run that goes on from an older checkpoint makes later ones again."""
    if not metrics.is_file():
        return
    lines = metrics.read_bytes().splitlines(keepends=True)
    steps = [_step_of(line) for line in lines]
    if lost := sum(step is None for step in steps[:-1]):  # the last may have been cut short
        logging.getLogger(__name__).warning("%s: %d lines cannot be read, and are left out.", metrics, lost)
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= done]
    if kept != lines:
        try:
            replace_file(metrics, b"".join(kept))
        except OSError as error:
            raise refused(metrics, error) from error


def _step_of(line: bytes) -> int | None:
    """Of a whole line that was written."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, LookupError, TypeError):
        return None


def _opened(path: Path) -> TextIO:
    """To append to, without a line that a full disk cut short."""
    file = path.open("a+")
    if path.is_file():
        content = path.read_bytes()
        file.truncate(content.rfind(b"\n") + 1)
    return file


def _append(file: TextIO, text: str) -> None:
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        raise refused(Path(file.name), error) from error


SHOWN = {
    "loss": "loss",
    "feature_std": "std",
    "effective_rank": "rank",
    "knn": "kNN",
    "zero_shot": "zero-shot",
    "recall_at_1": "recall@1",
}
"""What stands on the progress line, and how it is called there."""
