"""The processes of a run: joined at the start, watched while it goes, left at the end.

A launcher says by the environment who a process is: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT. Without
these a run is one process, and nothing here does anything.
"""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from cl.distributed import world_size
from cl.errors import ClError, ConfigError, PeerError
from cl.parents import end_with_parent

BEAT = 1.0
"""Seconds between two signs of life."""

PATIENCE = 10.0
"""Seconds that who keeps the signs of life has for an answer, and a hundredth more for every process."""

KEEPER = "rank 0 was lost, or the launcher, whichever kept the list of processes"
"""What is said where that list is not to be had."""


@contextmanager
def joined(expected: int | None, timeout: float) -> Iterator[None]:
    """Inside, a process belongs to the run's group, and ends with its launcher.

    Args:
        expected: how many processes there must be; None: as many as the launcher says.
        timeout: seconds that a process waits for the others, at the start and whenever they exchange anything.

    Raises:
        ConfigError: there are not as many as expected, or DeepSpeed's launcher does not find its list of hosts.
        PeerError: another process did not come, or was lost; the message names it.
    """
    world, rank, local = _launched()
    if missing := _missing_hosts():
        raise ConfigError(
            f"The launcher's list of hosts, {missing}, is not there, so it started this host alone. Look at "
            "--hostfile; /dev/null stands for one host."
        )
    if expected is not None and world != expected:
        raise ConfigError(
            f"cl.train.processes is {expected}, and the launcher started {world}. Look at its list of hosts and at "
            "its number of processes a host: a list that cannot be read is passed over by some launchers."
        )
    if world == 1:
        yield
        return
    _share_cores()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's calls of it
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    started = time.monotonic()
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timedelta(seconds=timeout)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout))
        store = store.clone()  # a connection of the watch's own: the run's waits on its own
    except ValueError as error:
        raise _not_launched(f"{error}.") from error
    except (dist.DistError, RuntimeError) as error:
        raise _not_met(rank, world, time.monotonic() - started, timeout, str(error)) from error
    watch = _Watch(store, rank, world)
    try:
        yield
    except Exception as error:
        if not of_a_peer(error):
            raise
        raise PeerError(
            f"Rank {rank}: {watch.lost()}. Nothing was written after the last checkpoint; start the run again with "
            "--resume."
        ) from error
    else:
        dist.destroy_process_group()
    finally:
        watch.stop()


def _launched() -> tuple[int, int, int]:
    """How many processes a launcher started, which of them this is, and which of its host's."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world == "1":
        return 1, 0, 0
    said = {"WORLD_SIZE": world, "RANK": os.environ.get("RANK"), "LOCAL_RANK": os.environ.get("LOCAL_RANK", "0")}
    found = [int(value) if value and value.isdecimal() else -1 for value in said.values()]
    if min(found) < 0 or found[1] >= found[0]:
        what = ", ".join(f"{name} = {value}" for name, value in said.items())
        raise _not_launched(f"No launcher says {what}.")
    return found[0], found[1], found[2]


def _not_met(rank: int, world: int, waited: float, timeout: float, why: str) -> ClError:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if "EADDRINUSE" in why:
        error = ConfigError(
            f"Port {port}, at which rank {rank} was to meet the others, is taken, maybe by another run. Give the "
            "launcher another: --master_port."
        )
        error.shared = False
        return error
    if waited < timeout / 2:  # nobody was waited for
        return PeerError(f"Rank {rank} could not meet the {world} processes at {address}:{port}: {_first_line(why)}")
    return PeerError(
        f"Rank {rank} waited {waited:.0f} s for all of {world} processes at {address}:{port}, and not all came. Start "
        "as many as the launcher was told, and see that they can reach that address (GLOO_SOCKET_IFNAME names the "
        "network interface)."
    )


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[0]


def _not_launched(what: str) -> ConfigError:
    error = ConfigError(
        f"{what} Start with torchrun or deepspeed, which set what processes need to find each other, or unset "
        "WORLD_SIZE."
    )
    error.shared = False
    return error


class _Caught(list[int]):
    """A handler of signals that collects their numbers."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in self:
            raise KeyboardInterrupt
        self.append(number)


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that a loop can end after a whole step. A second SIGINT interrupts at once.

    Within another one it is that one's list, so nothing that came in between is forgotten.
    """
    if isinstance(outer := signal.getsignal(signal.SIGTERM), _Caught):
        yield outer
        return
    caught = _Caught()
    before = {number: signal.signal(number, caught) for number in (signal.SIGTERM, signal.SIGINT)}
    lost = False
    try:
        yield caught
    except RuntimeError:  # others may be lost: what a launcher sends then must not end this one before it says so
        lost = world_size() > 1
        raise
    finally:
        for number, handler in before.items() if not lost else ():
            signal.signal(number, handler)


def told_to_end(seconds: float) -> bool:
    """Whether SIGTERM comes within so many seconds, as launchers send it to all processes once one has ended."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    end = time.monotonic() + seconds
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    return bool(told)


def leave(code: int) -> None:
    """Ends a process that had peers with `code`, and without the interpreter's clean-up: ZeRO-3 may abort in it."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def work_for_parent() -> None:
    """Of a process that works for the one that started it: no other ends it with SIGTERM or SIGINT.

    A launcher, or Ctrl-C, may send these to a whole process group, and the parent then needs its workers until it has
    written a checkpoint. On Linux it ends with its parent, too, which may be killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_until_parent_ends_it, daemon=True).start()


def _until_parent_ends_it() -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)


def _share_cores() -> None:
    """Two processes with all cores' threads each slow one another down many times over."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or os.environ["WORLD_SIZE"])
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))


def of_a_peer(error: BaseException) -> bool:
    """Whether it came from an exchange with other processes that failed."""
    said = str(error)
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in said for word in ("gloo", "Connection closed by peer", "NCCL"))
    )


class _Watch:
    """A thread that shows the others that this process lives, and stops it with SIGTERM where its launcher is gone.

    It also keeps what the first to miss a rank wrote of it: once processes leave, the store may be gone with them, and
    they would be missed as well.
    """

    def __init__(self, store: Store, rank: int, world: int):
        self.store = store
        self.rank = rank
        self.world = world
        self.verdict = ""
        self.parents = _parents()
        self.stopped = threading.Event()
        end_with_parent(signal.SIGTERM)  # at once, where the parent itself dies
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        beat = 0
        while not self.stopped.wait(BEAT):
            beat += 1
            with suppress(dist.DistError, RuntimeError):  # who keeps the store is gone: the next exchange will say so
                self.store.set(f"beat/{self.rank}", str(beat))
                if not self.verdict and self.store.check(["lost"]):
                    self.verdict = self.store.get("lost").decode()
            if self.parents and _parents()[: len(self.parents)] != self.parents:
                self.parents = []
                os.kill(os.getpid(), signal.SIGTERM)

    def lost(self) -> str:
        """Which ranks show no sign of life any more, in words: of all that ask, those of the first."""
        asking = threading.Thread(target=self._ask, daemon=True)
        asking.start()
        asking.join(PATIENCE + self.world / 100)
        if asking.is_alive():  # who keeps the store was stopped: it neither answers nor ends, and nothing times out
            self.verdict = self.verdict or KEEPER
        if not self.verdict:
            return "an exchange with the other processes failed, and all of them show signs of life"
        time.sleep(2 * BEAT)  # for the others to read it, before the store goes with who leaves
        return self.verdict

    def _ask(self) -> None:
        try:
            if not self.verdict and (found := self._missed()):
                self.verdict = self.verdict or self.store.compare_set("lost", "", found).decode()
        except (dist.DistError, RuntimeError):
            self.verdict = self.verdict or KEEPER

    def _missed(self) -> str:
        before = self._beats()
        time.sleep(3 * BEAT)
        after = self._beats()
        gone = [str(rank) for rank in range(self.world) if rank != self.rank and before[rank] == after[rank]]
        if not gone:
            return ""
        return f"rank {gone[0]} was lost" if len(gone) == 1 else f"ranks {', '.join(gone)} were lost"

    def _beats(self) -> list[bytes]:
        keys = [f"beat/{rank}" for rank in range(self.world)]
        return [self.store.get(key) if self.store.check([key]) else b"" for key in keys]

    def stop(self) -> None:
        """Ends the thread, unless it waits for an answer that does not come."""
        self.stopped.set()
        self.thread.join(2 * BEAT)


def _missing_hosts() -> Path | None:
    """The list of hosts that DeepSpeed's launcher was given, where there is none: it only warns of that."""
    if os.environ.get("CROSS_SIZE", "1") != "1":  # its name for the number of hosts: it had found the list
        return None
    with suppress(OSError):
        for starter in _parents()[1:]:
            words = os.fsdecode(Path(f"/proc/{starter}/cmdline").read_bytes()).split("\0")
            given = [value for word, value in pairwise(words) if word in ("--hostfile", "-H")]
            given += [word.partition("=")[2] for word in words if word.startswith("--hostfile=")]
            paths = [Path(f"/proc/{starter}/cwd").readlink() / name for name in given]
            return next((path for path in paths if not path.exists()), None)
    return None


def _parents() -> list[int]:
    """The launcher's process, and where that is one of DeepSpeed's for a host, also the one that started it."""
    parent = os.getppid()
    try:
        about = Path(f"/proc/{parent}")
        if b"deepspeed.launcher.launch" in (about / "cmdline").read_bytes():
            return [parent, int((about / "stat").read_text().rpartition(")")[2].split()[1])]
    except OSError:
        pass
    return [parent]
