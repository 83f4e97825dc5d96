"""The folder a run leaves behind."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch

from cl.checkpoint import replace_file
from cl.errors import CheckpointError


class RunFolder:
    """`config.gin`, `operative.gin`, `environment.json`, `metrics.jsonl`, `train.log`, `checkpoints/`, `summary.json`.

    Raises:
        CheckpointError: the folder cannot be written, or holds a run and was not asked to resume it.
    """

    def __init__(self, path: Path, resume: bool):
        self.path = path
        self.checkpoints = path / "checkpoints"
        if resume and not path.is_dir():
            raise CheckpointError(f"There is no run to resume at {path}. Correct --out, or start without --resume.")
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()) and not resume:
                raise CheckpointError(
                    f"The output folder {path} is not empty. Add --resume to continue its run, or give another --out."
                )
            replace_file(path / "environment.json", json.dumps(_environment(), indent=1).encode())
        except OSError as error:
            raise CheckpointError(
                f"The output folder {path} cannot be written: {error.strerror}. Give another with --out DIR."
            ) from error

    @staticmethod
    def fresh(recipe: str, parent: Path = Path("runs")) -> Path:
        """The first `runs/<recipe>-<n>` that does not exist."""
        return next(path for n in count(1) if not (path := parent / f"{recipe}-{n}").exists())

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
        "packages": packages,
    }
