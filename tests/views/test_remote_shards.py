"""Shards behind a URL: one order at any number of processes, requests for stretches, and servers that fail."""

import io
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import Noise

from cl.components import Place
from cl.errors import DataError
from cl.views import download
from cl.views import remote_shards as module
from cl.views.download import address, fetched
from cl.views.groups import BySample
from cl.views.index import Shard
from cl.views.records import Record, Source
from cl.views.remote_shards import RemoteShards
from cl.views.shards import Shards
from cl.views.stream import StreamViews
from cl.views.streamed_order import StreamedOrder
from cl.views.write_shards import write_shards

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(np.array)


@given(SIZES, st.integers(1, 5), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_the_order_is_a_permutation_of_which_any_part_can_be_had(sizes, streams, buffer, seed, epoch):
    n = int(sizes.sum())
    whole = StreamedOrder(sizes, streams, buffer, seed, epoch)(np.arange(n))
    assert np.array_equal(np.sort(whole), np.arange(n))
    part = np.arange(n)[seed :: streams + 1]
    assert np.array_equal(StreamedOrder(sizes, streams, buffer, seed, epoch)(part), whole[part])


@given(SIZES, st.integers(1, 4), st.integers(1, 9), st.integers(0, 5))
def test_a_stream_needs_few_stretches_at_a_time(sizes, streams, buffer, seed):
    order = StreamedOrder(sizes, streams, buffer, seed, 0)
    share = int(sizes.sum()) // streams
    stretch = np.repeat(np.arange(len(sizes)), sizes)
    for stream in range(streams):
        mine = stretch[order(np.arange(share) * streams + stream)]
        for number in range(len(sizes)):
            at = np.flatnonzero(mine == number)
            # Once begun, a stretch is done with after its own samples and what is shuffled among them.
            assert not len(at) or at[-1] - at[0] < sizes[number] + 2 * buffer


def test_epochs_differ_and_neighbours_are_torn_apart():
    sizes = np.full(40, 25)
    orders = [StreamedOrder(sizes, 4, 100, 0, epoch)(np.arange(1000)) for epoch in (0, 1)]
    assert (orders[0] == orders[1]).sum() < 20
    assert (np.abs(np.diff(orders[0])) == 1).sum() < 20


class Ranges(SimpleHTTPRequestHandler):
    """Sends parts of files, as web servers and buckets do; counts what it is asked for."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        path = self.translate_path(self.path)
        if not (wanted := self.headers.get("Range")) or self.server.plain:
            return super().do_GET()
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read()
        begin, end = map(int, wanted.removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Length", str(len(content[begin : end + 1])))
        self.end_headers()
        self.wfile.write(content[begin : end + 1])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder of shards and the server that has them."""
    pictures = [cv2.imencode(".png", np.full((4, 4, 3), i, np.uint8))[1].tobytes() for i in range(50)]
    samples = [(f"{i:03d}", {"png": content, "cls": str(i).encode()}) for i, content in enumerate(pictures)]
    write_shards(tmp_path / "data", "x", samples, 17)
    server = HTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path)))
    server.asked, server.plain = [], False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server, tmp_path / "data"
    server.shutdown()
    server.server_close()


def remote(server, **settings):
    url = f"http://127.0.0.1:{server.server_port}/data/"
    return RemoteShards(url, caption=None, **{"streams": 4, "stretch": 5, "buffer": 6} | settings)


def views(data, workers=0, batch=8):
    return StreamViews(data, batch, [Noise()], BySample(), workers)


@pytest.mark.parametrize("plain", [False, True])
def test_the_samples_are_those_of_the_shards(served, plain):
    server, folder = served
    server.plain = plain
    data, local = remote(server), Shards(str(folder), caption=None)
    assert isinstance(data, Source) and data.provides == {"labels"}
    one, other = data.load(), local.load()
    assert one.keys == other.keys and one.sample.tolist() == other.sample.tolist()
    assert one.label.tolist() == other.label.tolist() and (one.images == other.images).all()


def test_an_epoch_asks_for_every_stretch_once(served):
    server, _ = served
    source = views(remote(server))
    keys = [key for batch in islice(source.iterate(Place()), 6) for key in batch.keys]
    assert len(keys) == len(set(keys)) == 48
    asked = [each for each in server.asked if each[1]]
    assert len(asked) == len(set(asked)) == 12


@pytest.mark.parametrize("workers", [1, 2])
def test_order_at_any_number_of_ranks_and_workers_and_after_a_resume(served, workers):
    server, _ = served
    whole = [batch.keys for batch in islice(views(remote(server)).iterate(Place()), 15)]
    first = views(remote(server))
    list(islice(first.iterate(Place()), 4))
    state = first.state_dict()
    for world in (1, 2):
        for rank in range(world):
            again = views(remote(server), workers)
            again.load_state_dict(state)
            keys = [batch.keys for batch in islice(again.iterate(Place(rank, world)), 11)]
            assert keys == [each[rank::world] for each in whole[4:]]


def test_what_each_rank_reads_no_other_reads(served):
    server, _ = served
    asked = []
    for rank in (0, 1):
        server.asked.clear()
        list(islice(views(remote(server, stretch=6, buffer=6, streams=2)).iterate(Place(rank, 2)), 5))
        asked.append({each for each in server.asked if each[1]})
    # But for the stretch in which one's share ends and the other's begins.
    assert len(asked[0] & asked[1]) <= 1 and len(asked[0] | asked[1]) >= 9


def test_what_a_server_does_wrong_is_told(served, monkeypatch):
    server, folder = served
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with pytest.raises(DataError, match=r"nowhere/offsets\.npy cannot be read: the server says 404"):
        RemoteShards(f"http://127.0.0.1:{server.server_port}/nowhere").load()
    data = remote(server)
    data.records()
    path = folder / "00001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    with pytest.raises(DataError, match=r"00001\.tar cannot be read: [\d,]+ bytes came of"):
        data.load()
    path.write_bytes(b"x" * len(content))
    with pytest.raises(DataError, match=r"00001\.tar: not a tar file"):
        data.load()
    (folder / "index.json").write_text("[]")
    with pytest.raises(DataError, match=r"index\.json cannot be read as an index"):
        remote(server).load()


def test_a_server_that_fails_now_and_then_is_asked_again(monkeypatch):
    class Moody(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.count += 1
            self.send_response(200 if self.server.count == 4 else 503)
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_):
            pass

    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    server = HTTPServer(("127.0.0.1", 0), Moody)
    server.count = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/x"
        assert fetched(url) == b"content" and waits == [0.5, 1.0, 2.0]
        with pytest.raises(DataError, match="the server says 503"):
            fetched(url)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(DataError, match=r"cannot be read: .*refused"):
        fetched(url)


@pytest.mark.parametrize("url", ["pipe:cat /etc/passwd", "file:///etc/passwd", "/data", "ftp://x/y", "http://", "s3:x"])
def test_other_urls_are_refused_at_once(url):
    with pytest.raises(DataError, match="no URL that is opened"):
        RemoteShards(url)


def test_addresses_of_buckets():
    assert address("s3://bucket/a/b/") == "https://bucket.s3.amazonaws.com/a/b"
    assert address("s3://bucket/a", "http://localhost:9000/") == "http://localhost:9000/bucket/a"
    assert address("gs://bucket/a") == "https://storage.googleapis.com/bucket/a"
    assert address("https://host/a/") == "https://host/a"


def test_numbers_are_checked():
    for wrong in ("streams", "stretch", "buffer"):
        with pytest.raises(ValueError, match="at least 1"):
            RemoteShards("http://host", **{wrong: 0})


def test_offsets_may_be_anything(served):
    server, folder = served
    for offsets in (np.zeros(53, np.int64), np.arange(53)[::-1], np.full(53, -5), np.full(53, 2**60)):
        with (folder / "offsets.npy").open("wb") as file:
            np.save(file, offsets)
        for data in (remote(server), Shards(str(folder), caption=None)):
            with pytest.raises(DataError, match="offsets that it cannot have"):
                data.load()
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    (folder / "offsets.npy").write_bytes(buffer.getvalue())
    for data in (remote(server), Shards(str(folder), caption=None)):
        with pytest.raises(DataError, match="cannot be read as an index"):
            data.load()


@pytest.mark.parametrize("size", [10, 30, 100])
def test_of_shards_that_end_in_short_stretches_hardly_any_is_asked_for_twice(size):
    """More stretches than are kept, and of 10 and 30 samples a shard most or half of them shorter than others."""
    asked = Counter()

    def fetched(url, extent=None):
        asked[url, extent] += 1
        return bytes(1000)

    shards = [Shard(Path(f"{i}.tar"), np.arange(size + 1), 1000, {}) for i in range(2400 // size)]
    record = Record("key", {}, "where", 0)
    with patch.multiple(module, _index=lambda url: ("x", shards), fetched=fetched, unpacked=lambda *_: record):
        records = module._Records("http://x", streams=4, stretch=26, buffer=60)
        for position in records.order(np.arange(len(records)), 0, 0).tolist():
            records[position]
            assert sum(map(records._length, records.stretches)) <= 4 * (60 + 2 * 26)
    assert asked.total() <= 1.2 * len(asked) and len(asked) > 90
