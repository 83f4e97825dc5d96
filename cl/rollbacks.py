"""Going back to a checkpoint of before a collapse, and on from there at a lower rate.

`rollbacks.json` in the run's folder says when that was done, so that a run that is resumed keeps to it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from cl import checkpoint
from cl.errors import CheckpointError, NumericError, RollBack
from cl.run_folder import RunFolder

FILE = "rollbacks.json"


@dataclass(frozen=True)
class Rollback:
    """One of them.

    Attributes:
        step: applied steps of the checkpoint gone back to.
        rate: factor on the learning rate of all later steps.
        why: what was noticed.
    """

    step: int
    rate: float
    why: str

    def __post_init__(self) -> None:
        """TypeError: one of them is something else."""
        if not (isinstance(self.step, int) and isinstance(self.rate, float | int) and isinstance(self.why, str)):
            raise TypeError(f"{self} is none that was written")


def read(folder: RunFolder) -> list[Rollback]:
    """Those of a run, in order.

    Raises:
        CheckpointError: the file is not what was written.
    """
    path = folder.path / FILE
    try:
        return [Rollback(**each) for each in json.loads(path.read_text())["rollbacks"]] if path.exists() else []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not what was written: {error}. Put it back from a copy, or remove it."
        ) from error


def rate(rollbacks: Sequence[Rollback], index: int) -> float:
    """Factor on the learning rate of a step."""
    return math.prod((each.rate for each in rollbacks if each.step <= index), start=1.0)


def go_back(folder: RunFolder, error: RollBack) -> None:
    """Makes the newest checkpoint of a healthy time the one to go on from. On one process.

    Raises:
        NumericError: there is none, or this happened too often already.
        CheckpointError: the disk refuses.
    """
    before = read(folder)
    if len(before) >= error.most:
        times = f"{len(before)} time{'s' * (len(before) != 1)}"
        raise NumericError(f"{error.what} It was rolled back {times} before: this run ends.")
    step = checkpoint.newest_until(folder.checkpoints, error.healthy)
    if step is None:
        raise NumericError(
            f"{error.what} There is no whole checkpoint of step {error.healthy}, the last at which nothing was wrong, "
            "or before: this run ends. Start anew, with a lower rate."
        )
    every = [*before, Rollback(step, error.rate, error.what)]
    # First: who is stopped in between meets the collapse again, and not the old rate.
    folder.write_json(FILE, {"rollbacks": [asdict(each) for each in every]})
    checkpoint.go_back(folder.checkpoints, step)
