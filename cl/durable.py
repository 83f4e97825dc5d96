"""Files that outlast whatever ends the process or the machine."""

import errno
import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file in one step: it is there whole, or as it was."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_synced(aside, content)
        aside.replace(path)
        sync_names(path.parent)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file, not in one step, and waits for the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_names(folder: Path) -> None:
    """Waits until the disk has what a folder's files are called."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
            raise
    finally:
        os.close(descriptor)
