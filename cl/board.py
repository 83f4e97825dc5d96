"""Small exchanges between the processes of one host, through memory they share.

gloo sleeps until something arrives, and to be woken takes time: between two processes of a virtual machine that have
computed before, an exchange takes 1.5 to 2 ms, and 0.2 ms where each looks for itself. Synchronised batch normalisation
exchanges twice a layer.
"""

import logging
import os
import platform
import secrets
import select
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

logger = logging.getLogger(__name__)
T = TypeVar("T")

MEMORY = Path("/dev/shm")
"""Where files are memory."""
SLOT = 1 << 16
"""Bytes a rank can hand over at a time."""
AWAKE = 0.02
"""Seconds for which a rank looks without sleeping in between."""


class Board:
    """Every rank writes into its own slot and counts up; then it waits until all have counted as far.

    There are two rounds of slots. Who writes round n + 2 has seen all ranks at n + 1, so none still reads n.

    Args:
        path: a file of `Board.size(world)` zero bytes in memory; it may be removed once all have it.
        rank: this process.
        pids: of all processes, by rank.
        timeout: seconds after which a rank that is silent is taken for lost.
    """

    def __init__(self, path: Path, rank: int, pids: list[int], timeout: float):
        self.rank = rank
        self.timeout = timeout
        self.peers: dict[int, int] = {}
        self.ends = select.poll()
        weakref.finalize(self, _close, self.peers)
        for number, pid in enumerate(pids):
            if number != rank:
                file = os.pidfd_open(pid)
                self.peers[file] = number
                self.ends.register(file, select.POLLIN)
        memory = np.memmap(path, np.uint8, "r+", shape=(self.size(len(pids)),))
        start = 64 * len(pids)  # counters of their own cache lines
        self.counts = memory[:start].view(np.int64)[::8]
        self.slots = torch.from_numpy(memory[start:]).view(2, len(pids), SLOT)
        self.count = 0

    @staticmethod
    def size(world: int) -> int:
        """Bytes of a board."""
        return world * (64 + 2 * SLOT)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all ranks in rank order, `n ... -> (w n) ...`; of at most SLOT bytes, of equal shapes.

        Raises:
            DistNetworkError: a rank ended, or was silent for `timeout` seconds.
        """
        self.count += 1
        slots = self.slots[self.count % 2, :, : rows.nbytes]
        slots[self.rank] = rows.contiguous().flatten().view(torch.uint8)
        self.counts[self.rank] = self.count
        self._wait()
        return slots.clone().view(rows.dtype).view(len(slots) * len(rows), *rows.shape[1:])

    def _wait(self) -> None:
        start = time.monotonic()
        while self.counts.min() < self.count:
            os.sched_yield()
            waited = time.monotonic() - start
            if waited > AWAKE:
                time.sleep(0.001)
                ended = [file for file, _ in self.ends.poll(0)]
                silent = [number for number in self.peers.values() if self.counts[number] < self.count]
                if silent and (any(self.peers[each] in silent for each in ended) or waited > self.timeout):
                    raise dist.DistNetworkError(f"waited {waited:.0f} s for rank {silent[0]} at an exchange")


_BOARDS: weakref.WeakKeyDictionary[dist.ProcessGroup, Board | None] = weakref.WeakKeyDictionary()
"""What `board` has made, for as long as torch's process groups live."""


def board() -> Board | None:
    """That of the process group, or None where its processes do not share memory. The first call is one of all ranks.

    On other machines than x86 writes may be seen in another order than they were made, and there is none either.
    """
    group = dist.group.WORLD
    assert group is not None
    if group not in _BOARDS:
        _BOARDS[group] = _made(group)
    return _BOARDS[group]


def _made(group: dist.ProcessGroup) -> Board | None:
    able = MEMORY.is_dir() and hasattr(os, "pidfd_open") and platform.machine() in ("x86_64", "AMD64")
    # A process id means the same to processes of one namespace, which is named by a host's number for it.
    places = _of_all((os.getpid(), _host() if able else None))
    if len({host for _, host in places}) > 1 or not able:
        return None
    path = None
    if group.rank() == 0:
        path = _reserved(MEMORY / f"cl-{os.getpid()}-{secrets.token_hex(8)}", Board.size(group.size()))
    path = _of_all(path)[0]
    if path is None:
        return None
    timeout = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    try:
        made = Board(path, group.rank(), [pid for pid, _ in places], timeout)
    except OSError:
        made = None
    complete = None not in _of_all(made and True)
    if group.rank() == 0:
        path.unlink()
    return made if complete else None


def _reserved(path: Path, size: int) -> Path | None:
    """A new file of that many zeros; None where there is no room. What had none would end who first writes there."""
    try:
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        logger.warning("%s has no room for exchanges (%s): they go over gloo, which is slower.", MEMORY, error.strerror)
        path.unlink(missing_ok=True)
        return None
    return path


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)


def _host() -> tuple[str, ...]:
    # Who shares no network counts as of another host: so tests have two of them.
    spaces = (str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net"))
    return (Path("/proc/sys/kernel/random/boot_id").read_text(), *spaces)


def _of_all(value: T) -> list[T]:
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
