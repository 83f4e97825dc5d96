"""Exchanges through shared memory, against what was put in, and what becomes of them when a rank is lost."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

import cl.board
from cl.board import SLOT, Board, board
from cl.distributed import gather

DTYPES = (torch.float32, torch.float64, torch.int64, torch.bfloat16, torch.bool, torch.uint8)

linux = pytest.mark.skipif(
    not (hasattr(os, "pidfd_open") and Path("/dev/shm").is_dir()), reason="processes share memory on Linux only"
)


def boards(path, world, timeout=60.0):
    path.write_bytes(bytes(Board.size(world)))
    return [Board(path, rank, [os.getpid()] * world, timeout) for rank in range(world)]


def rows(rank, turn, shape, dtype):
    generator = torch.Generator().manual_seed(1000 * turn + rank)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


@linux
@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.sampled_from(DTYPES)), min_size=1, max_size=9
    ),
)
def test_all_get_the_rows_of_all_in_order(tmp_path_factory, world, turns):
    ranks = boards(tmp_path_factory.mktemp("board") / "memory", world)

    def run(rank):
        found = []
        for turn, (shape, dtype) in enumerate(turns):
            time.sleep(random.random() * 1e-3)
            found.append(ranks[rank].gather(rows(rank, turn, shape, dtype)))
        return found

    with ThreadPoolExecutor(world) as pool:
        every = list(pool.map(run, range(world)))
    for turn, (shape, dtype) in enumerate(turns):
        wanted = torch.cat([rows(rank, turn, shape, dtype) for rank in range(world)])
        assert all(torch.equal(found[turn], wanted) and found[turn].dtype == dtype for found in every)


@linux
def test_rows_that_do_not_lie_side_by_side_and_what_was_given_stays(tmp_path):
    (alone,) = boards(tmp_path / "memory", 1)
    wide = torch.arange(12.0).view(3, 4)
    found = alone.gather(wide[:, ::2])
    for _ in range(2):  # the slot is written again
        alone.gather(wide + 100)
    assert torch.equal(found, wide[:, ::2])
    full = torch.ones(SLOT, dtype=torch.uint8)
    assert torch.equal(alone.gather(full), full)


@linux
def test_a_silent_rank_is_given_up(tmp_path):
    first, _ = boards(tmp_path / "memory", 2, timeout=0.1)
    with pytest.raises(dist.DistNetworkError, match="rank 1"):
        first.gather(torch.ones(1))


@linux
def test_a_rank_that_comes_as_the_time_is_up_is_not_given_up(tmp_path, monkeypatch):
    first, _ = boards(tmp_path / "memory", 2, timeout=0.0)

    def late(*_):
        first.counts[1] = first.count
        return []

    monkeypatch.setattr(first, "ends", SimpleNamespace(poll=late))
    assert len(first.gather(torch.ones(1))) == 2


@linux
def test_files_of_any_number_are_watched_and_closed(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    try:
        with ExitStack() as opened:
            for _ in range(1030):
                opened.enter_context(Path(os.devnull).open())
            first, second = boards(tmp_path / "memory", 2, timeout=0.1)
            files = [*first.peers, *second.peers]
            assert max(files) > 1024
            with pytest.raises(dist.DistNetworkError, match="rank 1"):
                first.gather(torch.ones(1))
            del first, second
            for file in files:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(file)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def child(rank, folder, *without):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    if without:
        gloo(rank, *without)
    else:
        exchange(rank)
    os._exit(0)


def exchange(rank):
    numbers = random.Random(rank)
    for turn in range(300):
        shape = (2, 1 << turn % 16)  # beyond a slot too, by gloo
        time.sleep(numbers.random() * 1e-3 if turn % 50 else 0.05)
        wanted = torch.cat([rows(each, turn, shape, torch.float32) for each in range(2)])
        assert torch.equal(gather(rows(rank, turn, shape, torch.float32)), wanted)
    assert board() is not None and not list(Path("/dev/shm").glob(f"cl-{os.getpid()}-*"))
    if rank:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(dist.DistNetworkError, match="rank 1"):
        gather(torch.ones(1))
    assert board().slots.numel() == 4 * SLOT


def gloo(rank, memory, refusing):
    """Exchanges over memory in the folder `memory`, which is full, or which rank `refusing` cannot use."""
    cl.board.MEMORY = Path(memory)
    if rank == int(refusing):
        Board.__init__ = refuse
    assert torch.equal(gather(torch.tensor([rank])), torch.arange(2)) and board() is None
    assert not list(Path(memory).glob("cl-*"))


def refuse(*_):
    raise OSError(errno.EACCES, "Permission denied")


def codes(folder, *without):
    """Of two processes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [[sys.executable, __file__, str(rank), str(folder), *without] for rank in range(2)]
    pair = [subprocess.Popen(each, env=environment) for each in words]
    return [each.wait(timeout=120) for each in pair]


@linux
def test_two_processes_and_one_that_is_killed(tmp_path):
    assert codes(tmp_path) == [0, -signal.SIGKILL]


@linux
def test_where_memory_is_full_all_go_over_gloo(tmp_path, small_disk):
    space = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - Board.size(2) // 2))
    assert codes(tmp_path, str(small_disk), "-1") == [0, 0]


@linux
@pytest.mark.parametrize("refusing", [0, 1])
def test_where_one_cannot_use_it_all_go_over_gloo(tmp_path, refusing):
    memory = tmp_path / "memory"
    memory.mkdir()
    assert codes(tmp_path, str(memory), str(refusing)) == [0, 0]


if __name__ == "__main__":
    child(int(sys.argv[1]), *sys.argv[2:])


@linux
def test_who_shares_no_network_is_of_another_host():
    """As the two hosts of tests/test_hosts.py are: what they exchange goes over their network."""
    command = [sys.executable, "-c", "from cl.board import _host; print(repr(_host()))"]
    here = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    apart = subprocess.run(["unshare", "--net", *command], capture_output=True, text=True, check=False)
    if "unshare failed" in apart.stderr:
        pytest.skip(f"no network of one's own here: {apart.stderr.strip()}")
    assert here == repr(cl.board._host()) + "\n" != apart.stdout and apart.returncode == 0
