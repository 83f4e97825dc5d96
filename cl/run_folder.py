"""The folder a run leaves behind."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch

from cl.durable import replace_file
from cl.errors import CheckpointError
from cl.precision import has_bfloat16


class RunFolder:
    """`config.gin`, `operative.gin`, `environment.json`, `metrics.jsonl`, `train.log`, `checkpoints/`, `summary.json`.

    A new run's folder is claimed at once. One to be resumed is only looked at: what it says of its run stays until
    `claim`, as this configuration may not go with its checkpoint.

    Args:
        path: the folder.
        resume: whether it may hold a run, which is to go on.
        files: what is written by `claim` beside the environment, by name: the configuration.

    Raises:
        CheckpointError: the folder cannot be written, or holds a run and was not asked to resume it.
    """

    def __init__(self, path: Path, resume: bool, files: Mapping[str, bytes] | None = None):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.files = files or {}
        if resume:
            if not any((path / name).exists() for name in ("config.gin", "environment.json", "checkpoints")):
                raise CheckpointError(
                    f"There is no run to resume at {path}. Correct --out, or start in a new folder without --resume."
                )
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            used = any(path.iterdir())
        except OSError as error:
            raise _unwritable(path, error) from error
        if used:
            raise CheckpointError(
                f"The output folder {path} is not empty. Add --resume to continue its run, or give another --out."
            )
        self.claim()

    def claim(self) -> None:
        """Writes which run this is: once nothing can refuse it any more, on one process.

        Raises:
            CheckpointError: the disk refuses.
        """
        try:
            for name, content in self.files.items():
                replace_file(self.path / name, content)
            replace_file(self.path / "environment.json", json.dumps(_environment(), indent=1).encode())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    @staticmethod
    def fresh(recipe: str, parent: Path = Path("runs")) -> Path:
        """Makes the first `runs/<recipe>-<n>` that does not exist, so that no other run takes it.

        Raises:
            CheckpointError: it cannot be made.
        """
        path = parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for path in (parent / f"{recipe}-{n}" for n in count(1)):
                with suppress(FileExistsError):
                    path.mkdir()
                    break
        except OSError as error:
            raise _unwritable(path, error) from error
        return path

    def write(self, name: str, content: bytes) -> None:
        """Replaces one of the files. Another host's processes may be the first to write there.

        Raises:
            CheckpointError: the disk refuses.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            replace_file(self.path / name, content)
        except OSError as error:
            raise refused(self.path / name, error) from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Replaces one of the small JSON files."""
        self.write(name, (json.dumps(value, indent=1) + "\n").encode())


def refused(path: Path, error: OSError) -> CheckpointError:
    """What to say where the disk does not take a run's file."""
    return CheckpointError(
        f"{path} could not be written: {error.strerror}. Checkpoints are untouched. Free space, and continue with "
        f"--out {path.parent} --resume."
    )


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"The output folder {path} cannot be written: {error.strerror}. Give another with --out DIR."
    )


def _environment() -> dict[str, Any]:
    packages = {}
    for name in ("torch", "torchvision", "timm", "gin-config", "webdataset", "deepspeed", "torchmetrics", "cl"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bfloat16": has_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "packages": packages,
    }
