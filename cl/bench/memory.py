"""What a process has in memory, as Linux counts it."""

from collections.abc import Callable
from pathlib import Path


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status, such as VmRSS."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def restart_peak() -> int:
    """Makes VmHWM start anew; returns the bytes in memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_above(run: Callable[[], None]) -> int:
    """Bytes that a call had at its peak beyond those before it."""
    before = restart_peak()
    run()
    return max(status("VmHWM") - before, 0)
