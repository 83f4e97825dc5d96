"""Who was lost, as several processes find out one after the other; each is a thread here."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

from cl import processes
from cl.processes import _Watch

WORLD = 3


@pytest.fixture
def watched(monkeypatch):
    """Makes a watch a rank, over a store that somebody else keeps, or rank 0: then it is gone once rank 0 left."""
    monkeypatch.setattr(processes, "BEAT", 0.4)
    watches, kept = {}, []

    def make(keeper):
        server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        kept.append(server)
        clients = [TCPStore("127.0.0.1", server.port, is_master=False) for _ in range(WORLD)]
        watches.update({rank: _Watch(store, rank, WORLD) for rank, store in enumerate(clients)})

        def leave(rank):
            watches.pop(rank).stop()
            if rank == 0 and keeper == "rank 0":
                kept.clear()

        del server
        return watches, leave

    yield make
    for watch in watches.values():
        watch.stop()


@pytest.mark.parametrize("keeper", ["launcher", "rank 0"])
@pytest.mark.parametrize("first", [0, 1])
def test_later_ones_name_the_rank_that_the_first_one_missed(keeper, first, watched):
    ranks, leave = watched(keeper)
    leave(2)
    assert ranks[first].lost() == "rank 2 was lost"
    leave(first)
    assert ranks[1 - first].lost() == "rank 2 was lost"


def test_rank_0_is_the_lost_one(watched):
    ranks, leave = watched("launcher")
    leave(0)
    assert ranks[1].lost() == "rank 0 was lost"
    leave(1)
    assert ranks[2].lost() == "rank 0 was lost"


def test_rank_0_is_the_lost_one_and_the_store_with_it(watched):
    ranks, leave = watched("rank 0")
    leave(0)
    for rank in (1, 2):
        assert ranks[rank].lost() == "rank 0 was lost, or the launcher, whichever kept the list of processes"
        leave(rank)


KEEPER = """
import time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(600)
"""


def test_who_keeps_the_store_neither_answers_nor_ends(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 3.0)
    with subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True) as keeper:
        try:
            store = TCPStore("127.0.0.1", int(keeper.stdout.readline()), is_master=False)
            watch = _Watch(store, 1, 2)
            keeper.send_signal(signal.SIGSTOP)
            assert watch.lost() == "rank 0 was lost, or the launcher, whichever kept the list of processes"
        finally:
            keeper.kill()
    watch.stop()


def test_where_none_is_missed_those_that_ask_later_may_find_one(watched):
    ranks, leave = watched("launcher")
    with ThreadPoolExecutor(2) as pool:
        found = set(pool.map(lambda rank: ranks[rank].lost(), (0, 1)))
    assert found == {"an exchange with the other processes failed, and all of them show signs of life"}
    leave(0)
    assert ranks[1].lost() == ranks[2].lost() == "rank 0 was lost"
