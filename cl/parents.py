"""Ends with the process that started this one. Imports nothing that takes time: a launcher may be gone by then."""

import ctypes
import os
import signal
import sys


def end_with_parent(number: int) -> None:
    """On Linux, has the kernel send this process a signal once the thread that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def end_with_launcher() -> None:
    """Of one of several processes: it does not outlive its launcher, though it has not met the others yet."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        end_with_parent(signal.SIGTERM)
