"""A run's checkpoint, opened again: its wiring with its trained weights."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from cl import rules, wiring
from cl.checkpoint import read_last, read_step
from cl.errors import ConfigError
from cl.launch import add_imports
from cl.train import Training


def add_run(arguments: argparse.ArgumentParser) -> None:
    """The arguments of tools that open one: `run`, `--step` and, as `imports`, `--import`."""
    arguments.add_argument("run", type=Path, help="output folder of a training")
    arguments.add_argument("--step", type=int, metavar="N", help="the checkpoint after N steps; default the last")
    add_imports(arguments)


def open_run(folder: Path, imports: Sequence[str] = (), step: int | None = None) -> Training:
    """The training that `folder` holds, built from its `config.gin`, with the weights of a checkpoint.

    Args:
        folder: output folder of a training.
        imports: modules with components of one's own.
        step: of its checkpoints, the one after so many steps; None: the last.

    Raises:
        ConfigError: the folder holds no run.
        CheckpointError: it has no such checkpoint, or that is not whole.
    """
    if not (folder / "config.gin").is_file():
        raise ConfigError(f"{folder} holds no run: there is no config.gin in it. Give the --out folder of a training.")
    training: Training = wiring.read([folder / "config.gin"], imports=imports).build()
    rules.check(training)
    saved = folder / "checkpoints"
    checkpoint = read_last(saved) if step is None else read_step(saved, step)
    training.load(checkpoint)
    training.objective.to(training.place.device)
    logging.getLogger(__name__).info("%s, step %d of %d", folder, checkpoint.step, training.steps)
    return training
