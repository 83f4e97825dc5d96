"""Shards on a web server or in a bucket, read a stretch at a time while they are trained on."""

import io
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from urllib.parse import quote

import gin
import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from cl.errors import DataError
from cl.views import loading
from cl.views.download import address, fetched
from cl.views.index import INDEX, OFFSETS, Shard, extent, parse_index, unpacked
from cl.views.reading import Reading
from cl.views.records import Record
from cl.views.samples import Sample, Samples
from cl.views.streamed_order import StreamedOrder


@gin.register
class RemoteShards:
    """The samples of shards behind a URL, beside the index that `tools/make_shards.py` wrote.

    Samples come in stretches of `stretch` that stand together in a shard, each one request for a range of bytes. The
    order of an epoch is that of so many `streams`, whose samples take turns: each reads its share of the stretches, in
    an order anew every epoch, and shuffles `buffer` samples at a time. It is the same for any number of processes; but
    none reads what another needs only if `streams` is a multiple of ranks times workers.

    Args:
        url: of the folder: http://, https://, or s3://BUCKET/… and gs://BUCKET/… of which anyone may read. Nothing else
            is opened, and no password is sent.
        label: as `Shards`.
        caption: as `Shards`.
        size: as `Shards`.
        max_bad_fraction: as `Shards`.
        streams: how many take turns.
        stretch: samples a request.
        buffer: samples that are shuffled together, in every stream. A process keeps the bytes of up to `streams` times
            (`buffer` + 2 `stretch`) samples: of 30 kB a sample and with the defaults, 370 MB.
        endpoint: URL of a server that speaks S3's protocol, for s3://; None: Amazon's.

    Raises (when read):
        DataError: a server that does not answer in four tries, no index there, or a shard that is not what the index
            says; and as `Shards`. Any other kind of URL is a DataError at once.
    """

    def __init__(
        self,
        url: str,
        label: str | None = "cls",
        caption: str | Sequence[str] | None = "txt",
        size: int | None = None,
        max_bad_fraction: float = 0.01,
        streams: int = 8,
        stretch: int = 256,
        buffer: int = 1024,
        endpoint: str | None = None,
    ):
        if min(streams, stretch, buffer) < 1:
            raise ValueError(
                f"RemoteShards: streams {streams}, stretch {stretch} and buffer {buffer} must be at least 1"
            )
        self.reading = Reading("RemoteShards", label, caption, size, max_bad_fraction)
        self.url = address(url, endpoint)
        self.provides = self.reading.provides
        self.max_bad_fraction = max_bad_fraction
        self.streams = streams
        self.stretch = stretch
        self.buffer = buffer
        self._records: _Records | None = None

    def records(self) -> "_Records":
        """All samples as they are stored; the index is fetched at the first call."""
        if self._records is None:
            records = _Records(self.url, self.streams, self.stretch, self.buffer)
            self.reading.check(records)
            self._records = records
        return self._records

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds; BadSample if it cannot be used."""
        return self.reading.decoded(record)

    def read(self, chunk: int = 1024) -> Iterator[Samples]:
        """All samples once, in order, at most `chunk` at a time."""
        return loading.read(self, chunk)

    def load(self) -> Samples:
        """All samples at once."""
        return loading.load(self)


class _Records:
    """Records by position, of which a stretch is fetched at a time; the latest stretches are kept."""

    def __init__(self, url: str, streams: int, stretch: int, buffer: int):
        self.url = url
        self.name, self.shards = _index(url)
        self.streams = streams
        self.buffer = buffer
        self.having = sum((Counter(shard.extensions) for shard in self.shards), Counter[str]())
        self.shard_starts = [0, *accumulate(map(len, self.shards))]
        inner = (at for low, high in pairwise(self.shard_starts) for at in range(low, high, stretch))
        self.starts = [*inner, self.shard_starts[-1]]
        # A buffer shares its first and its last stretch with its neighbours. A shard's last may be shorter than others.
        self.most = streams * (buffer + 2 * stretch)
        self.kept = 0
        self.stretches: OrderedDict[int, bytes] = OrderedDict()
        self.latest: StreamedOrder | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    def order(self, places: Int64[ndarray, "p"], seed: int, epoch: int) -> Int64[ndarray, "p"]:
        """Of streams that read stretches, take turns, and shuffle a buffer at a time."""
        if self.latest is None or (self.latest.seed, self.latest.epoch) != (seed, epoch):
            self.latest = StreamedOrder(np.diff(self.starts), self.streams, self.buffer, seed, epoch)
        return self.latest(places)

    def __getitem__(self, position: int) -> Record:
        number = bisect_right(self.shard_starts, position) - 1
        shard, before = self.shards[number], self.shard_starts[number]
        url, stretch = f"{self.url}/{quote(str(shard.path))}", bisect_right(self.starts, position) - 1
        begin, end = extent(shard, self.starts[stretch] - before, self.starts[stretch + 1] - before)
        if stretch not in self.stretches:
            self.stretches[stretch] = fetched(url, (begin, end))
            self.kept += self._length(stretch)
            while self.kept > self.most:
                self.kept -= self._length(self.stretches.popitem(last=False)[0])
        self.stretches.move_to_end(stretch)
        low, high = extent(shard, position - before, position - before + 1)
        return unpacked(self.stretches[stretch][low - begin : high - begin], url, self.name)

    def _length(self, stretch: int) -> int:
        return self.starts[stretch + 1] - self.starts[stretch]


def _index(url: str) -> tuple[str, list[Shard]]:
    try:
        offsets = np.load(io.BytesIO(fetched(f"{url}/{OFFSETS}")), allow_pickle=False)
        name, entries = parse_index(fetched(f"{url}/{INDEX}").decode(), offsets)
        if not entries or any(Path(entry.name).name != entry.name for entry in entries):
            raise ValueError("it names no shards, or such as are elsewhere")
    except (ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{url}/{INDEX} cannot be read as an index of shards ({error!r}). Write it where the shards are: python "
            "tools/make_shards.py index FOLDER"
        ) from None
    return name, [entry.shard(Path(entry.name)) for entry in entries]
