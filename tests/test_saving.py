"""Saving, with a disk that is full and a process that is killed, both for real."""

import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from test_checkpoint import checkpoint, equal
from test_command_line import TINY, arguments
from test_processes import finished, losses, said, words

from cl import launch
from cl.checkpoint import newest_for_all, read_last, write

pytestmark = pytest.mark.alone

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def save_and_be_killed(folder, step):
    """In `folder`/n, over step 1, a process saves another step that is killed before its file operation number n.

    Each is forked off this one. The last n, for which nothing was left to be killed before, is printed.
    """
    for number in count():
        torch.manual_seed(0)
        write(folder / str(number), checkpoint(1))
        if (process := os.fork()) == 0:
            sys.addaudithook(killing_before(number, folder))
            write(folder / str(number), checkpoint(step, seed=1), keep=1)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0:
            print(number)
            break


def killing_before(number, folder):
    """An audit hook."""
    left = [number]

    def hook(name, values):
        if name in EVENTS and str(folder) in str(values[0]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


@pytest.mark.parametrize("step", [1, 2])
def test_killed_before_any_file_operation_a_save_is_whole_or_not_there(tmp_path, step):
    """Of a step after the one that is there, and of that step again."""
    words = [sys.executable, __file__, str(tmp_path), str(step)]
    operations = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    torch.manual_seed(0)
    saved = []
    for folder in (tmp_path / str(number) for number in range(operations + 1)):
        found, damaged, _ = newest_for_all(folder)
        assert not damaged
        saved.append(equal(found, checkpoint(step, seed=1)))
        assert saved[-1] or equal(found, checkpoint(1))
        write(folder, checkpoint(3), keep=1)
        assert equal(read_last(folder), checkpoint(3)) and len(list(folder.glob("step-*"))) == 1
        assert not list(folder.glob(".step-*"))
    assert saved == sorted(saved) and set(saved) == {False, True} and operations > 10


@pytest.mark.parametrize("free", [0, 1, 3, 9])
def test_a_full_disk_exits_with_5_wherever_it_runs_full(small_disk, capfd, free):
    """`free` is in pages: a file takes one at least."""
    filler, page = small_disk / "filler", os.sysconf("SC_PAGE_SIZE")
    space = os.statvfs(small_disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - free * page))
    out = small_disk / "run"
    settings = [*TINY, "cl.train.checkpoint_every = 1", "cl.train.log_every = 1", "cl.train.precision = 'float32'"]
    assert launch.main(arguments("simclr", out, *settings)) == 5
    error = capfd.readouterr().err
    assert "CheckpointError" in error and "No space left" in error and str(out) in error and "Traceback" not in error
    filler.unlink()
    if (out / "config.gin").exists() and (out / "checkpoints" / "last").exists():
        done = read_last(out / "checkpoints").step
        assert launch.main(["--out", str(out), "--resume"]) == 0
        assert f"goes on after step {done} (checkpoints/step-{done:08d})\n" in capfd.readouterr().out
        assert sorted(losses(out)) == [1, 2, 3] and done < 3


def test_a_disk_that_runs_full_at_the_second_checkpoint_keeps_the_first(small_disk, tmp_path, capfd):
    settings = [*TINY, "cl.train.checkpoint_every = 1", "cl.train.keep = 0"]
    assert launch.main(arguments("simclr", tmp_path / "whole", *settings)) == 0
    size = sum(path.stat().st_blocks * 512 for path in (tmp_path / "whole" / "checkpoints" / "step-00000001").iterdir())
    space = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(space.f_bavail * space.f_frsize - 3 * size // 2 - 2**16))
    out = small_disk / "run"
    assert launch.main(arguments("simclr", out, *settings)) == 5
    assert "The checkpoint of step 2 could not be written" in capfd.readouterr().err
    assert read_last(out / "checkpoints").step == 1
    (small_disk / "filler").unlink()
    assert launch.main(["--out", str(out), "--resume"]) == 0
    assert "goes on after step 1 (checkpoints/step-00000001)\n" in capfd.readouterr().out
    assert losses(out) == losses(tmp_path / "whole")


def test_a_disk_that_is_read_only_exits_with_5_and_the_checkpoint_stays(small_disk, capfd):
    out, settings = small_disk / "run", [*TINY, "cl.train.checkpoint_every = 1"]
    assert launch.main(arguments("simclr", out, *settings)) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for given in (
        [*arguments("simclr", out, *settings, "cl.train.steps = 5"), "--resume"],
        arguments("simclr", small_disk / "other", *settings),
    ):
        assert launch.main(given) == 5
        error = capfd.readouterr().err
        assert "CheckpointError" in error and "Read-only file system" in error and given[3] in error
        assert "Traceback" not in error
    assert read_last(out / "checkpoints").step == 3


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks_and_they_go_on_once_there_is_room(small_disk, tmp_path):
    settings = words(3, cl__train__steps=6, cl__train__checkpoint_every=1, cl__train__keep=2)
    assert finished("torchrun", tmp_path / "whole", settings) == {0: 0, 1: 0}
    size = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoints" / "step-00000006").iterdir())
    resize(small_disk, int(2.5 * size))
    out = small_disk / "run"
    assert finished("torchrun", out, settings) == {0: 5, 1: 5}
    assert said(out).count("CheckpointError: The checkpoint of step 3 could not be written") == 1
    assert read_last(out / "checkpoints").step == 2
    resize(small_disk, 5 * size)
    assert finished("torchrun", out, ["--resume"]) == {0: 0, 1: 0}
    assert "goes on after step 2 (checkpoints/step-00000002)\n" in said(out)
    assert losses(out) == losses(tmp_path / "whole")


def resize(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


BOUNDARIES = {
    "before the first file": "os.mkdir /.step-00000003 1",
    "between two files": "open /.step-00000003.*/ranks 1",
    "before it gets its name": "os.rename /.step-00000003 1",
    "before last names it": "os.rename /.last 3",
    "before an old one goes": "shutil.rmtree /step-00000001 1",
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The losses of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert finished("torchrun", out, words(1, cl__train__steps=5, cl__train__checkpoint_every=1)) == {0: 0, 1: 0}
    return losses(out)


@pytest.mark.slow
@pytest.mark.parametrize("when", BOUNDARIES)
def test_rank_0_killed_while_saving(when, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    settings = [*words(1, cl__train__steps=5, cl__train__checkpoint_every=1), "--import", "killed_at"]
    monkeypatch.setenv("KILLED_AT", BOUNDARIES[when])
    assert finished("torchrun", out, settings) == {1: 6}
    assert "PeerError: Rank 1: rank 0 was lost" in said(out)
    monkeypatch.delenv("KILLED_AT")
    last = json.loads((out / "checkpoints" / (out / "checkpoints" / "last").read_text() / "state.json").read_text())
    assert last["step"] == (3 if when == "before an old one goes" else 2)
    assert finished("torchrun", out, ["--resume"]) == {0: 0, 1: 0}
    assert f"goes on after step {last['step']} (checkpoints/step-{last['step']:08d})\n" in said(out)
    assert losses(out) == unbroken


if __name__ == "__main__":
    save_and_be_killed(Path(sys.argv[1]), int(sys.argv[2]))
