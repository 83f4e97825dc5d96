"""Processes that run a test's own file as the ranks of a run, and leave what they find in a folder."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


def processes(file: str, world: int, folder: Path, words: Sequence[str] = ()) -> None:
    """Runs `file number world folder words...` for every number, to their end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, file, str(number), str(world), str(folder), *words] for number in range(world)]
    started = [subprocess.Popen(each, env=environment) for each in commands]
    try:
        assert [each.wait(timeout=2400) for each in started] == [0] * world
    finally:
        for each in started:
            each.kill()


@contextmanager
def met(number: int, world: int, folder: Path, name: str = "") -> Iterator[None]:
    """Inside, one of them; it ends there."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    meeting = f"file://{folder}/rendezvous-{world}-{name}"
    dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=world)
    yield
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # ZeRO-3 may abort at the interpreter's exit
