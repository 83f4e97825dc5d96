"""Checkpoints: safetensors and JSON only, written aside, synced, renamed; nothing in them is ever unpickled.

checkpoints/step-00001200/   model.safetensors, optimizer.safetensors, ranks.safetensors (what is each process's own),
                             config.gin (the run's), state.json (positions, hooks, checksums)
checkpoints/last             the name of the newest whole one
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from cl.distributed import gather_objects, on_first, rank, world_size
from cl.durable import replace_file, sync_names, write_synced
from cl.errors import CheckpointError

logger = logging.getLogger(__name__)

CONFIG = "config.gin"
"""Of a run beside its checkpoints, and of a checkpoint."""


@dataclass(frozen=True)
class Rank:
    """What a process has of its own.

    Attributes:
        state: JSON: the data's position, hooks.
        tensors: torch's generator states ("|rng", "|cuda_rng"), and buffers that are not those of rank 0.
    """

    state: dict[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on bit for bit. It does not say how the parameters were shared out.

    Attributes:
        step: applied optimizer steps.
        model: the objective's state dict.
        optimizer: the engine's state dict.
        notes: JSON: times, measured baselines.
        ranks: what is each process's own.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    notes: dict[str, Any]
    ranks: Sequence[Rank]


def write(folder: Path, checkpoint: Checkpoint, keep: int = 2, reach: int = 0) -> Path:
    """Writes a checkpoint below `folder`, points `last` at it and keeps the newest `keep` up to it (0: all).

    Beside them it keeps the newest that is at least `reach` steps older, for who goes back as far, and the oldest that
    is not, which will be; so nobody goes back by more than twice `reach` and what lies between two checkpoints. Later
    ones are left alone: somebody made `last` name an earlier step, and may want them back. So is one that is there,
    whole and the same, as after going back to it: whoever is killed meanwhile still has it.

    Raises:
        CheckpointError: the disk refuses. The previous checkpoint is then untouched.
    """
    final = folder / _called(checkpoint.step)
    aside, before = (folder / f".{final.name}.{what}" for what in (os.getpid(), "before"))
    try:
        own = {f"{n}/{name}": value for n, each in enumerate(checkpoint.ranks) for name, value in each.tensors.items()}
        files = {
            "model.safetensors": _pack(checkpoint.model),
            "optimizer.safetensors": _pack(checkpoint.optimizer),
            "ranks.safetensors": _pack(own),
        }
        config = folder.parent / CONFIG
        if config.is_file():
            files[CONFIG] = config.read_bytes()
        checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        ranks = [each.state for each in checkpoint.ranks]
        state = {"step": checkpoint.step, "notes": checkpoint.notes, "ranks": ranks, "sha256": checksums}
        written = _sees(final, state)
        checksums["state.json"] = _checksum_of(state)
        files["state.json"] = json.dumps(state, indent=1).encode()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*"):  # by who was killed at this
            shutil.rmtree(left, ignore_errors=True)
        if not written:
            aside.mkdir()
            for name, content in files.items():
                write_synced(aside / name, content)
            sync_names(aside)
            if final.exists():
                final.rename(before)
            aside.rename(final)
            sync_names(folder)
        replace_file(folder / "last", final.name.encode())
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        _restore(folder)
        raise CheckpointError(
            f"The checkpoint of step {checkpoint.step} could not be written to {folder}: {error.strerror}. Earlier "
            "checkpoints are untouched. Free space or give another --out, and continue with --resume."
        ) from error
    until_now = [path for path in _saved(folder) if _step(path) <= checkpoint.step]
    stay = kept([_step(path) for path in until_now], keep, reach)
    gone = [path for path in until_now if _step(path) not in stay]
    for old in [*gone, *([before] if before.exists() else [])]:
        try:
            _remove(old)
        except OSError as error:  # this one is written, and that is what counts
            logger.warning("%s, which is no longer needed, could not be removed: %s.", old, error)
    return final


def kept(steps: Sequence[float], keep: int, reach: int) -> set[float]:
    """Of steps that were saved, the newest first, those that `write` keeps."""
    far = max(steps[0] - reach, 0)
    old, young = ([step for step in steps if (step <= far) == wanted] for wanted in (True, False))
    return {*steps[: keep or None], *old[:1], *young[-1:]}


def newest_for_all(folder: Path) -> tuple[Checkpoint | None, list[Path], list[str]]:
    """What a run goes on from, those that are not whole, and lines that say so. A call of all processes.

    Rank 0's folder decides: the checkpoint `last` points at, or where it is not whole, the newest older one that is;
    None where nothing was saved yet. Where all processes see that very one, each maps its files; else rank 0 sends it
    to all.

    Raises:
        CheckpointError: there are some, and none is whole.
    """
    path, about, damaged, lines = on_first(lambda: _newest(folder))
    if path is None:
        return None, damaged, lines
    if all(gather_objects(rank() == 0 or _sees(path, about))):
        return _mapped(path, about), damaged, lines
    return on_first(lambda: _mapped(path, about)), damaged, lines


def regrouped(checkpoint: Checkpoint) -> Iterator[str]:
    """Lines that say what it means where another number of processes goes on from it than wrote it."""
    ranks = checkpoint.ranks
    if len(ranks) == world_size():
        return
    yield (
        f"step {checkpoint.step} was reached by {len(ranks)} processes and goes on with {world_size()}: "
        "the samples are the same; sums over them are rounded otherwise, and random numbers are drawn anew"
    )
    buffers = {name for each in ranks for name in each.tensors if not name.startswith("|")}
    own = [f"{len(buffers)} buffers such as {min(buffers)}"] if buffers else []
    if any(each.state["hooks"] != ranks[0].state["hooks"] for each in ranks):
        own.append("the states of hooks")
    if own:
        yield f"what each process had of its own is rank 0's from here on: {', '.join(own)}"


def config_of(folder: Path) -> Path | None:
    """The configuration of the newest checkpoint of which it is what was written; None where there is none.

    Early ones have none of their own: then it is the run's. For who goes on with it: a checkpoint that was being
    replaced when it was killed gets its name back.
    """
    _restore(folder)
    for path in _candidates(folder):
        with suppress(CheckpointError), _refusing(path):  # a damaged one, which is passed over
            wanted = json.loads((path / "state.json").read_text())["sha256"].get(CONFIG)
            found = (path if wanted else folder.parent) / CONFIG
            if found.is_file() and wanted in (None, hashlib.sha256(found.read_bytes()).hexdigest()):
                return found
    return None


def set_aside(damaged: Sequence[Path]) -> None:
    """Calls each `damaged-step-...`, so that it is not kept in the place of a whole one. Nothing deletes it.

    Raises:
        CheckpointError: the disk refuses.
    """
    for path in damaged:
        aside = path.with_name(f"damaged-{path.name}")
        try:
            if aside.exists():  # of the same step, and an earlier resume
                _remove(aside)
            path.rename(aside)
        except OSError as error:
            raise CheckpointError(
                f"{path} is damaged and could not be renamed to {aside.name}: {error.strerror}. Move it away."
            ) from error


def _newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[Path], list[str]]:
    """Where it is, its state.json, those of the folder that were refused, and the lines."""
    _restore(folder)
    refused: dict[Path, str] = {}
    for path in _candidates(folder):
        try:
            about = _verified(path)
        except CheckpointError as error:
            refused[path] = str(error)
            continue
        lines = [f"{each} An older one is taken instead." for each in refused.values()]
        lines.append(f"goes on after step {about['step']} ({folder.name}/{path.name})")
        return path, about, [each for each in _saved(folder) if each in refused], lines
    if refused:
        every = " ".join(refused.values())
        raise CheckpointError(
            f"No checkpoint in {folder} is whole: {every} Put back one of them from a copy, and name it in "
            "the file 'last', or start anew with another --out."
        )
    return None, {}, [], ["there is no checkpoint yet: starts at the first step"]


def _sees(path: Path, about: dict[str, Any]) -> bool:
    """Whether this process, maybe of another host, has the checkpoint with that state.json there, whole."""
    try:
        return _checksum_of(_verified(path)) == _checksum_of(about)
    except CheckpointError:
        return False


def newest_until(folder: Path, step: int) -> int | None:
    """Steps of the newest whole checkpoint of at most so many."""
    return next((int(_step(path)) for path in _saved(folder) if _step(path) <= step and _is_whole(path)), None)


def go_back(folder: Path, step: int) -> None:
    """Makes `last` name the checkpoint of a step, and removes the later ones.

    Raises:
        CheckpointError: the disk refuses.
    """
    try:
        replace_file(folder / "last", _called(step).encode())
        for path in _saved(folder):
            if _step(path) > step:
                _remove(path)
    except OSError as error:
        raise CheckpointError(f"{folder} could not be changed to go back: {error.strerror}. Free space.") from error


def _remove(path: Path) -> None:
    """A checkpoint; of one that lies elsewhere, the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _is_whole(path: Path) -> bool:
    try:
        return bool(_verified(path))
    except CheckpointError:
        return False


def _restore(folder: Path) -> None:
    """Gives its name back to a checkpoint that was about to be replaced when the run, which is over, was killed."""
    with suppress(OSError):  # then an older one is taken
        for before in folder.glob(".step-*.before"):
            final = folder / before.stem[1:]
            if not final.exists():
                before.rename(final)


def _candidates(folder: Path) -> list[Path]:
    """The one `last` points at, and older ones, the newest first; all, where it points at none."""
    saved = _saved(folder)
    try:
        last = folder / (folder / "last").read_text().strip()
    except (OSError, ValueError):  # killed before the first one had its name in there, or not what was written
        return saved
    return [last, *(path for path in saved if _step(path) < _step(last))]


def _saved(folder: Path) -> list[Path]:
    """All that have their names, the newest first."""
    found = [path for path in folder.glob("step-*") if _step(path) < math.inf]
    return sorted(found, key=_step, reverse=True)


def _called(step: int) -> str:
    return f"step-{step:08d}"


def _step(path: Path) -> float:
    """The step that a checkpoint is called after; beyond all, of one that a person called otherwise."""
    number = path.name.removeprefix("step-")
    return float(number) if number.isdecimal() else math.inf


def read_last(folder: Path) -> Checkpoint:
    """The checkpoint `last` points at.

    Raises:
        CheckpointError: there is none, or its files are not what was written.
    """
    pointer = folder / "last"
    if not pointer.is_file():
        raise CheckpointError(f"There is no checkpoint in {folder}. Go on with its run by --resume until it has one.")
    try:
        with _refusing(pointer):
            name = pointer.read_text().strip()
        return read(folder / name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} For an older one give its --step, or write the name of its step-* folder into the file 'last'."
        ) from error


def read_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint after so many steps.

    Raises:
        CheckpointError: there is none, or its files are not what was written.
    """
    saved = {_step(path): path for path in reversed(_saved(folder))}
    if step not in saved:
        there = ", ".join(f"{each:.0f}" for each in saved) or "none"
        raise CheckpointError(
            f"There is no checkpoint of step {step} in {folder}; there are: {there}. One is written every "
            "cl.train.checkpoint_every steps and at the end, and the newest cl.train.keep stay."
        )
    return read(saved[step])


def read(path: Path) -> Checkpoint:
    """A checkpoint by its folder, verified by its checksums. Its tensors are mapped from the files, not held.

    An early one has no checksum of its state.json, which is then taken as it is.

    Raises:
        CheckpointError: a file is missing, or not what was written.
    """
    return _mapped(path, _verified(path))


def _verified(path: Path) -> dict[str, Any]:
    """A checkpoint's state.json. No file is held in memory.

    Raises:
        CheckpointError: a file is missing, or not what was written.
    """
    with _refusing(path):
        about = json.loads((path / "state.json").read_text())
        own = about["sha256"].pop("state.json", None)
        if own not in (None, _checksum_of(about)):
            raise _altered(path / "state.json")
        for name, checksum in about["sha256"].items():
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                    raise _altered(path / name)
        _mapped(path, about)  # what has its checksums may still be no checkpoint
        return about


def _mapped(path: Path, about: dict[str, Any]) -> Checkpoint:
    with _refusing(path):
        model, optimizer, own = (load_file(path / f"{name}.safetensors") for name in ("model", "optimizer", "ranks"))
        tensors: list[dict[str, Tensor]] = [{} for _ in about["ranks"]]
        for name, value in own.items():
            number, _, name = name.partition("/")
            tensors[int(number)][name] = value
        ranks = [Rank(state, mine) for state, mine in zip(about["ranks"], tensors, strict=True)]
        return Checkpoint(about["step"], model, optimizer, about["notes"], ranks)


@contextmanager
def _refusing(path: Path):
    """Whatever reading what was not written may come to is a CheckpointError."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}. Nothing was loaded.") from error


def _checksum_of(state: dict[str, Any]) -> str:
    """Of what state.json says, but for this checksum: it is the same once it was written and read."""
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _altered(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is not what was written: its checksum differs. Nothing was loaded.")


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
