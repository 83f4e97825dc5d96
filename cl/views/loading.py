"""Whole data sets, decoded."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch

from cl.errors import DataError
from cl.views.records import Bad, BadSample, Source
from cl.views.samples import Sample, Samples

logger = logging.getLogger(__name__)

T = TypeVar("T")


def read(source: Source, chunk: int = 1024) -> Iterator[Samples]:
    """All samples that can be used, once, in stored order, at most `chunk` at a time; the others are counted.

    Raises:
        DataError: pictures of different sizes, or too many samples that cannot be used.
    """
    records = source.records()
    skipped, reported = Counter[str](), Counter[str]()
    rows: list[Sample] = []
    first: Sample | None = None
    for position in range(len(records)):
        record = records[position]
        try:
            row = source.decoded(record)
        except BadSample as bad:
            count(skipped, Bad.of(record, bad), source.max_bad_fraction * len(records))
            continue
        first = first or row
        if row.image.shape != first.image.shape:
            raise DataError(
                f"{record.where}: {row.key!r} is a picture of {_pixels(row)} pixels, {first.key!r} one of "
                f"{_pixels(first)}. Set {type(source).__name__}.size to bring them to one size."
            )
        if len(rows) == chunk:
            yield batch(rows, skipped=skipped - reported)
            rows, reported = [], Counter(skipped)
        rows.append(row)
    if not rows:
        raise DataError(f"None of {len(records)} samples can be used: {told(skipped)}.")
    yield batch(rows, skipped=skipped - reported)
    if skipped:
        logger.warning("%s of %s samples cannot be used: %s.", skipped.total(), len(records), told(skipped))


def load(source: Source) -> Samples:
    """All samples at once."""
    return Samples.concatenate(list(read(source)))


def batch(rows: list[Sample], images: bool = True, skipped: Mapping[str, int] | None = None) -> Samples:
    """Samples as one; without `images`, their pictures are left out and may be of any size.

    Raises:
        DataError: pictures of different sizes.
    """
    if images:
        for row in rows:
            if row.image.shape != rows[0].image.shape:
                raise DataError(
                    f"{row.key!r} is a picture of {_pixels(row)} pixels, {rows[0].key!r} one of {_pixels(rows[0])}. "
                    f"{ONE_SIZE}"
                )
    return Samples(
        images=torch.stack([row.image for row in rows]) if images else torch.empty(len(rows), 3, 0, 0).byte(),
        label=torch.tensor([row.label for row in rows]),
        captions=tuple(row.captions for row in rows),
        keys=tuple(row.key for row in rows),
        sample=torch.tensor([row.sample for row in rows]),
        skipped=skipped or {},
    )


def check_size(shape: torch.Size, other: torch.Size) -> None:
    """Of what are to be rows of one tensor.

    Raises:
        DataError: they differ.
    """
    if shape != other:
        raise DataError(f"Pictures of {_size(shape)} and of {_size(other)} pixels in one batch. {ONE_SIZE}")


def count(skipped: Counter[str], bad: Bad, most: float) -> None:
    """Counts a sample that cannot be used.

    Raises:
        DataError: more than `most` were.
    """
    skipped[bad.counted] += 1
    logger.debug("%s: %r has %s", bad.where, bad.key, bad.what)
    if skipped.total() > most:
        raise DataError(
            f"{bad.where}: {bad.key!r} has {bad.what}. Samples that cannot be used: {told(skipped)}; more than "
            "max_bad_fraction of the data set allows. Mend them, leave them out, or allow more."
        )


def allowed(most: float, world: int) -> float:
    """How many of the samples that may be left out one of `world` processes may: its part, and chance's share.

    Chance gives one process more of them than another; three deviations of that are let pass.
    """
    part = most / world
    return part if world == 1 else part + 3 * math.sqrt(part)


def sent(loaded: Iterable[T], workers: str) -> Iterator[T]:
    """What a loader's processes send.

    Args:
        loaded: the loader.
        workers: what says how many there are, for the message.

    Raises:
        DataError: one of them ended.
    """
    try:
        yield from loaded
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"A process that reads data ended: {error}. If it was killed for memory, lower {workers}."
        ) from error


def told(skipped: Mapping[str, int]) -> str:
    """The most frequent kinds, in words."""
    common = Counter(skipped).most_common(5)
    rest = sum(skipped.values()) - sum(count for _, count in common)
    return "; ".join([f"{count} in {where}" for where, count in common] + [f"{rest} elsewhere"] * (rest > 0))


ONE_SIZE = "Bring them to one size by the data set's `size`, or augment them one by one: @FusedAugment()."


def _pixels(sample: Sample) -> str:
    return _size(sample.image.shape)


def _size(shape: torch.Size) -> str:
    return "{1} x {0}".format(*shape[-2:])
