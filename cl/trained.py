"""A finished run, opened again: its wiring with its trained weights."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cl import rules, wiring
from cl.checkpoint import read_last
from cl.errors import ConfigError
from cl.train import Training


def open_run(folder: Path, imports: Sequence[str] = ()) -> Training:
    """The training that `folder` holds, built from its `config.gin`, with the weights of its last checkpoint.

    Raises:
        ConfigError: the folder holds no run.
        CheckpointError: its checkpoint is not whole.
    """
    if not (folder / "config.gin").is_file():
        raise ConfigError(f"{folder} holds no run: there is no config.gin in it. Give the --out folder of a training.")
    training: Training = wiring.read([folder / "config.gin"], imports=imports).build()
    rules.check(training)
    checkpoint = read_last(folder / "checkpoints")
    training.load(checkpoint)
    training.objective.to(training.place.device)
    logging.getLogger(__name__).info("%s, step %d of %d", folder, checkpoint.step, training.steps)
    return training
