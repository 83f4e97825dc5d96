"""Shards made of any source of samples: in parallel, checked as they are written, and gone on with after a stop."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader, Dataset

from cl.errors import ClError, DataError
from cl.views.decode import EXTENSIONS
from cl.views.index import INDEX, scan, write_index
from cl.views.loading import sent, told
from cl.views.records import Bad, BadSample, Record, Records, Source
from cl.views.samples import Sample
from cl.views.write_shards import write_shard

NOTES = "making.jsonl"
SOME = 8
"""Samples that tell a source from another."""
QUALITY = 92
"""Of the JPEGs that resized pictures become."""


def make_shards(
    source: Source,
    folder: Path,
    name: str,
    per_shard: int,
    shorter: int | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counter[str]:
    """Writes all samples of a source that can be used as shards with an index; returns what was left out, and why.

    Shards are made side by side, each a stretch of the source, and appear under their names when they are whole. A call
    that was interrupted goes on where it stopped.

    Args:
        source: every sample of it is decoded once, to see that it can be.
        folder: where to; empty, new, or of the same call before.
        name: the data set's.
        per_shard: samples of the source a shard.
        shorter: pictures whose shorter side is longer are shrunk to it, and become JPEG; None: files as they are.
        workers: processes.
        progress: called with samples done and in all.

    Raises:
        DataError: too many samples cannot be used, or the folder has something else in it.
        OSError: the folder cannot be written.
    """
    records = source.records()
    members = dict(sorted(records.having.items()))
    job = {"name": name, "samples": len(records), "members": members, "per_shard": per_shard, "shorter": shorter}
    job["some"] = _digest(records)
    paths = [folder / f"{number:05d}.tar" for number in range(-(-len(records) // per_shard))]
    left_out = _resumed(folder, job)
    todo = [number for number, path in enumerate(paths) if path.name not in left_out]
    shards = _Shards(source, records, [(number * per_shard, paths[number]) for number in todo], per_shard, shorter)
    # The loader's processes have the source as it is here; those of a pool would be sent it with every shard.
    written = sent(DataLoader(shards, batch_size=None, num_workers=workers, collate_fn=_as_it_is), "--workers")
    with (folder / NOTES).open("a") as notes:
        for done, (number, skipped) in enumerate(zip(todo, written, strict=True), start=len(paths) - len(todo) + 1):
            if isinstance(skipped, Exception):
                raise skipped
            left_out[paths[number].name] = skipped
            notes.write(json.dumps({paths[number].name: skipped}) + "\n")
            notes.flush()
            _check(left_out, source.max_bad_fraction, len(records))
            progress(min(done * per_shard, len(records)), len(records))
    shards_there = [scan(path, digest=True) for path in paths if path.exists()]
    if not shards_there:
        raise DataError(f"None of {len(records)} samples can be used: {told(_total(left_out))}.")
    write_index(folder, name, shards_there)
    (folder / NOTES).unlink()
    return _total(left_out)


class _Shards(Dataset):
    """Writes a shard when it is asked for it; gives what was left out of it, or what went wrong."""

    def __init__(
        self, source: Source, records: Records, todo: list[tuple[int, Path]], per_shard: int, shorter: int | None
    ):
        self.source = source
        self.records = records
        self.todo = todo
        self.per_shard = per_shard
        self.shorter = shorter

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, index: int) -> dict[str, int] | Exception:
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        start, path = self.todo[index]
        skipped: Counter[str] = Counter()
        try:
            samples = self._usable(start, skipped)
            if first := next(samples, None):  # no empty shard where none can be used
                write_shard(path, chain([first], samples))
        except (ClError, OSError) as error:  # as it is: the loader would wrap it in a traceback
            return error
        return dict(skipped)

    def _usable(self, start: int, skipped: Counter[str]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for position in range(start, min(start + self.per_shard, len(self.records))):
            record = self.records[position]
            try:
                sample = self.source.decoded(record)
            except BadSample as error:
                skipped[Bad.of(record, error).counted] += 1
                continue
            yield record.key, record.members if self.shorter is None else _shrunk(record, sample, self.shorter)


def _total(left_out: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(each) for each in left_out.values()), Counter[str]())


def _check(left_out: Mapping[str, Mapping[str, int]], max_bad_fraction: float, samples: int) -> None:
    total = _total(left_out)
    if total.total() > max_bad_fraction * samples:
        raise DataError(
            f"Samples that cannot be used: {told(total)}; more than max_bad_fraction = {max_bad_fraction} of "
            f"{samples:,} samples. Mend them or allow more."
        )


def _resumed(folder: Path, job: Mapping[str, Any]) -> dict[str, Mapping[str, int]]:
    """By shard that is there already, what was left out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / NOTES
    text = notes.read_text() if notes.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # without a line that was cut short
    if not whole:
        if any(path != notes for path in folder.iterdir()):
            what = f"it has an {INDEX}: what it holds is complete" if (folder / INDEX).exists() else "it is not empty"
            raise FileExistsError(f"{what}. Name a new folder")
        notes.write_text(json.dumps(job) + "\n")
        return {}
    if whole != text:
        notes.write_text(whole)
    before, *shards = map(json.loads, whole.splitlines())
    if {"some": job["some"], **before} != dict(job):  # not in the earliest
        raise DataError(
            f"{folder} was begun with other settings or another source: {before}, now {dict(job)}. Name a new folder, "
            "or empty it."
        )
    return {name: skipped for shard in shards for name, skipped in shard.items()}


def _digest(records: Records) -> str:
    """Of a few samples, by which another source of the same name and size is known."""
    digest = hashlib.sha256()
    for position in sorted({number * (len(records) - 1) // (SOME - 1) for number in range(SOME)}):
        record = records[position]
        for part in (record.key, *sorted(record.members)):
            digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
        for extension in sorted(record.members):
            digest.update(record.members[extension])
    return digest.hexdigest()[:16]


def _shrunk(record: Record, sample: Sample, shorter: int) -> Mapping[str, bytes]:
    image = sample.image.permute(1, 2, 0).numpy()
    scale = shorter / min(image.shape[:2])
    if scale >= 1:
        return record.members
    height, width = (max(shorter, round(side * scale)) for side in image.shape[:2])
    small = np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    others = {extension: content for extension, content in record.members.items() if extension not in EXTENSIONS}
    return {"jpg": simplejpeg.encode_jpeg(small, quality=QUALITY), **others}


def _as_it_is(skipped: Any) -> Any:
    return skipped
