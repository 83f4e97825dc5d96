"""The command line: arguments to exit code."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from cl import checkpoint, rollbacks, rules, wiring
from cl.distributed import largest_over_ranks, on_first, rank
from cl.errors import CheckpointError, ClError, ConfigError, Preempted, RollBack
from cl.processes import interrupts, joined, leave, told_to_end
from cl.run_folder import RunFolder
from cl.train import Training
from cl.wiring.variant import difference

FIRST = 5.0
"""Seconds that rank 0 has to say what ended a run before the others do, which may have started earlier."""

EPILOG = """\
examples:
  python tools/train.py --gin gin/simclr.gin
  python tools/train.py --gin gin/moco_v2.gin --param 'Queue.size = 2048' --param 'cl.train.steps = 500'
  python tools/train.py --out runs/moco_v2-1 --resume
  torchrun --nproc_per_node 2 tools/train.py --gin gin/moco_v2.gin --gin gin/scale/zero2.gin

exit codes: 0 done, 2 configuration, 3 data, 4 numeric, 5 checkpoint or disk, 6 a peer was lost, 143 stopped by a signal
(after a checkpoint, if a step was made)."""


def add_configuration(arguments: argparse.ArgumentParser) -> None:
    """The arguments that name a configuration, the same for every tool: `gin`, `param` and `imports`."""
    arguments.add_argument(
        "--gin", action="append", default=[], metavar="FILE", help="a recipe; a later one overrides an earlier one"
    )
    arguments.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="one binding ('Component.parameter = value') or macro ('NAME = value'), over all files; may be repeated",
    )
    add_imports(arguments)


def add_imports(arguments: argparse.ArgumentParser) -> None:
    """The argument that brings components of one's own: `imports`."""
    arguments.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="a module on PYTHONPATH that registers components of your own; may be repeated",
    )


def parser() -> argparse.ArgumentParser:
    """The arguments of tools/train.py."""
    arguments = argparse.ArgumentParser(
        description="Trains what a gin file wires together.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_configuration(arguments)
    arguments.add_argument("--out", type=Path, metavar="DIR", help="output folder; default runs/<recipe>-<n>")
    arguments.add_argument(
        "--resume", action="store_true", help="continue the run in --out (with its own config.gin if no --gin is given)"
    )
    arguments.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # launchers pass it
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the training; returns the exit code. Errors are one paragraph on stderr."""
    said = os.environ.get("RANK", "0")
    number = int(said) if said.isdecimal() else 0
    logging.basicConfig(level=logging.INFO if number == 0 else logging.ERROR, format="%(message)s", stream=sys.stderr)
    arguments = parser().parse_args(argv)
    taken = _to_resume(arguments)
    code, why, silent = 1, "", False  # of what nobody thought of
    try:
        _run(arguments, taken)
        code = 0
    except ClError as error:
        code, why, silent = error.code, f"{type(error).__name__}: {error}", number > 0 and error.shared
        if not silent:
            print(why, file=sys.stderr, flush=True)
    finally:
        for folder in taken[-1:]:
            with suppress(CheckpointError):  # the disk may be what ended the run
                folder.write_json(f"exit.{number}.json", {"code": code})
    if silent and not told_to_end(FIRST):  # rank 0 did not end, so it may be this one's alone: its host lacks a file
        print(why, file=sys.stderr, flush=True)
    leave(code)
    return code


def _to_resume(arguments: argparse.Namespace) -> list[RunFolder]:
    """The run that is to go on, which is told the exit code though it be refused: a launcher's own does not tell."""
    holds = arguments.resume and arguments.out and (arguments.out / "config.gin").is_file()
    return [RunFolder(arguments.out, resume=True)] if holds else []


def _run(arguments: argparse.Namespace, taken: list[RunFolder]) -> None:
    # A new run's folder is its own only once it was not refused: nothing is written to it before.
    if not arguments.gin and arguments.resume and arguments.out:
        arguments.gin = [str(arguments.out / "config.gin")]
    if arguments.resume and not arguments.out:
        raise ConfigError("--resume goes on with the run of a folder: name it by --out, such as --out runs/simclr-1.")
    if not arguments.gin:
        raise ConfigError("Nothing to train: give a recipe with --gin, for example --gin gin/simclr.gin.")
    config = wiring.read(arguments.gin, arguments.param, arguments.imports)
    # Signals are collected once the processes met: whoever waits for the others is ended by one at once.
    with joined(config.value("processes", None), config.value("timeout", 600.0)), interrupts() as caught:
        if arguments.resume:
            on_first(partial(_same_variant, arguments.out, config))
        training = built(config)
        if largest_over_ranks(len(caught)):
            again = "Continue with --resume." if arguments.resume else "Start the run again: it has no folder yet."
            raise Preempted(f"Stopped by a signal before the first step. {again}")
        folder = on_first(lambda: _folder(arguments, config))
        taken.append(folder)
        if arguments.resume:  # before anything of the run is rewritten
            on_first(partial(rollbacks.read, folder))
        if rank() == 0:
            print(f"writing to {folder.path}", flush=True)
        resume, collapsed = arguments.resume, None
        while True:
            try:
                training.run(folder, resume)
                return
            except RollBack as error:
                collapsed = error.with_traceback(None)  # which holds the training
            on_first(partial(rollbacks.go_back, folder, collapsed))
            del training  # its memory is the next one's; engines have cycles
            gc.collect()
            training, resume = built(config), True


def _same_variant(out: Path, config: wiring.Wiring) -> None:
    """CheckpointError where the checkpoint to go on from is another variant's: its weights may well fit."""
    path = checkpoint.config_of(out / "checkpoints")
    if path is None:
        return
    try:
        was = wiring.read([path])
    except ConfigError as error:
        raise CheckpointError(
            f"Whether {path.parent} is of this configuration's variant is not known, as its own {path} cannot be read: "
            f"{error} Name its components' module by --import, or start anew with another --out."
        ) from error
    if what := difference(was.root, config.root):
        raise CheckpointError(
            f"{path.parent} is a checkpoint of another variant than this configuration: {what}. Leave out --gin, "
            f"or give --gin {path}; or start anew with another --out."
        )


def built(config: wiring.Wiring) -> Training:
    """The training, of components that go together."""
    seed = config.value("seed", 0)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"cl.train.seed must lie in [0, 2**63), got {seed}.")
    torch.manual_seed(seed)
    training = config.build()
    rules.check(training)
    if rank():  # all have the same weights; what is drawn from now on is each one's own
        torch.manual_seed((seed + rank() * 2**32) % 2**63)
    return training


def _folder(arguments: argparse.Namespace, config: wiring.Wiring) -> RunFolder:
    path = arguments.out or RunFolder.fresh(Path(arguments.gin[0]).stem)
    files = {"config.gin": config.config_str().encode(), "operative.gin": config.operative_str().encode()}
    return RunFolder(path, arguments.resume, files)
