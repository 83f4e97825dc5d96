"""The pre-flight audit: everything that is wrong with a folder of shards, not the first thing alone."""

import json
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from cl.errors import DataError
from cl.parents import end_with_parent
from cl.views.decode import EXTENSIONS
from cl.views.index import INDEX, Shard, check_distinct, scan
from cl.views.reading import PICKLES


class Audit(NamedTuple):
    """What was found: the name that an earlier index gives, shards that can be read, what is wrong, and remarks."""

    name: str | None
    shards: list[Shard]
    problems: list[str]
    remarks: list[str]


def audit(folder: Path, workers: int = 2, progress: Callable[[int, int], None] = lambda done, total: None) -> Audit:
    """Reads all of every shard in a folder.

    Raises:
        DataError: the folder is not there, or has no shards.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".tar")
    if not paths:
        raise DataError(f"The folder {folder} holds no shards: no .tar file.")
    name, before = _earlier(folder)
    found = Audit(name, [], [], [])
    with ProcessPoolExecutor(workers, initializer=end_with_parent, initargs=(signal.SIGTERM,)) as pool:
        for done, result in enumerate(pool.map(_scanned, paths), start=1):
            if isinstance(result, Shard):
                found.shards.append(result)
            else:
                found.problems.append(result)
            progress(done, len(paths))
    if found.shards:
        try:
            check_distinct(found.shards)
        except DataError as error:
            found.problems.append(str(error))
        found.remarks.extend(_remarks(before, found.shards))
    return found


def _scanned(path: Path) -> Shard | str:
    try:
        return scan(path, digest=True)
    except (DataError, OSError) as error:
        return str(error)


def _remarks(before: dict[str, str], shards: list[Shard]) -> list[str]:
    having = sum((Counter(shard.extensions) for shard in shards), Counter[str]())
    samples = sum(map(len, shards))
    remarks = [f"{samples:,} samples in {len(shards):,} shards; members: " + _told(having, samples)]
    for shard in shards:
        if not shard.whole:
            remarks.append(f"{shard.path}: no end mark after {len(shard):,} samples, as if it had been cut there")
        if shard.passed_over:
            remarks.append(f"{shard.path}: {shard.passed_over:,} members without an extension belong to no sample")
    if pickles := sorted(name for name in having if name.rpartition(".")[2] in PICKLES):
        remarks.append(f"members that are pickles are never opened: {', '.join(pickles)}")
    if not any(extension in having for extension in EXTENSIONS):
        remarks.append(f"no sample has a picture: none ends in {', '.join(EXTENSIONS)}")
    return remarks + _changed(before, shards)


def _told(having: Counter[str], samples: int) -> str:
    missing = {name: samples - count for name, count in having.items()}
    return ", ".join(name + (f" (missing in {missing[name]:,})" if missing[name] else "") for name in sorted(having))


def _earlier(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The name and the shards' digests of an earlier index; nothing where there is none that can be read."""
    try:
        index = json.loads((folder / INDEX).read_text())
        return str(index["name"]), {row["name"]: row["sha256"] for row in index["shards"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None, {}


def _changed(before: dict[str, str], shards: list[Shard]) -> list[str]:
    if not before:
        return []
    now = {shard.path.name: shard.sha256 for shard in shards}
    remarks = [f"{name}: gone since the last index" for name in before if name not in now]
    remarks += [f"{name}: new since the last index" for name in now if name not in before]
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    return remarks + [f"{name}: changed since the last index" for name in changed]
