import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

import cl.checkpoint
import cl.durable
from cl.checkpoint import (
    Checkpoint,
    Rank,
    go_back,
    kept,
    newest_for_all,
    newest_until,
    read,
    read_last,
    read_step,
    set_aside,
    write,
)
from cl.errors import CheckpointError

FILES = ["model.safetensors", "optimizer.safetensors", "ranks.safetensors", "state.json"]


def checkpoint(step=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    conv = torch.randn(2, 3, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last)
    return Checkpoint(
        step=step,
        model={"conv": conv, "fill": torch.tensor([2]), "half": torch.ones(2, dtype=torch.bfloat16)},
        optimizer={"conv|exp_avg": conv * 2, "conv|step": torch.tensor(3.0)},
        notes={"knn": 0.5},
        ranks=[
            Rank(
                {"views": {"epoch": 1, "position": 8}, "hooks": [{}, {"in_a_row": 2}]},
                {"|rng": torch.get_rng_state(), f"trunk.{number}/running_mean": torch.rand(2, generator=generator)},
            )
            for number in range(11)
        ],
    )


def equal(one, other):
    def same(a, b):
        return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)

    return (
        (one.step, one.notes) == (other.step, other.notes)
        and len(one.ranks) == len(other.ranks)
        and all(a.state == b.state and same(a.tensors, b.tensors) for a, b in zip(one.ranks, other.ranks, strict=True))
        and same(one.model, other.model)
        and same(one.optimizer, other.optimizer)
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def test_reads_what_was_written(folder):
    written = checkpoint()
    path = write(folder, written)
    assert path.name == "step-00000003" and equal(read(path), written) and equal(read_last(folder), written)
    assert sorted(file.name for file in path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("reach", "expected"), [(0, [140, 160]), (25, [120, 140, 160]), (40, [120, 140, 160]), (100, [0, 100, 140, 160])]
)
def test_one_is_kept_for_who_goes_back_as_far(folder, reach, expected):
    for step in (0, 100, 120, 140, 160):
        write(folder, checkpoint(step), keep=2, reach=reach)
    found = sorted(int(path.name[-8:]) for path in folder.glob("step-*"))
    assert found == expected


@given(st.integers(1, 3), st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 120))
def test_who_goes_back_finds_one_that_is_not_much_older_than_asked_for(keep, gaps, reach):
    saved = [0.0]
    for gap in gaps:
        steps = [saved[0] + gap, *saved]
        saved = sorted(kept(steps, keep, reach), reverse=True)
        assert saved[:keep] == steps[:keep] and len(saved) <= keep + 2
        oldest = saved[0] - 2 * reach - max(gaps)
        assert any(oldest < step <= max(saved[0] - reach, 0) for step in saved)


def test_what_a_killed_process_was_writing_is_removed_by_the_next_save(folder):
    left = folder / ".step-00000002.1"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half of it")
    write(folder, checkpoint())
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-00000003"]


def test_going_back_takes_the_newest_whole_one_and_removes_what_came_later(folder):
    for step in (1, 2, 3, 4):
        write(folder, checkpoint(step), keep=0)
    (folder / "step-00000003" / "model.safetensors").write_bytes(b"damaged")
    assert newest_until(folder, 0) is None and newest_until(folder, 3) == 2
    go_back(folder, 2)
    assert sorted(path.name[-1] for path in folder.glob("step-*")) == ["1", "2"] and read_last(folder).step == 2


def test_the_newest_are_kept_and_last_points_at_the_newest(folder):
    for step in (9, 10, 11, 120):
        write(folder, checkpoint(step), keep=2)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000011", "step-00000120"]
    assert read_last(folder).step == 120 and not list(folder.glob(".*"))


def test_later_ones_are_left_alone_where_a_run_went_back(folder):
    for step in (10, 20, 30):
        write(folder, checkpoint(step), keep=3)
    (folder / "last").write_text("step-00000010")
    write(folder, checkpoint(15), keep=1)
    assert newest_for_all(folder)[0].step == 15
    assert sorted(path.name[-2:] for path in folder.glob("step-*")) == ["15", "20", "30"]
    write(folder, checkpoint(30, seed=1), keep=2)
    assert equal(newest_for_all(folder)[0], checkpoint(30, seed=1))
    assert sorted(path.name[-2:] for path in folder.glob("step-*")) == ["20", "30"]
    write(folder, checkpoint(40), keep=0)
    assert len(list(folder.glob("step-*"))) == 3


def test_the_same_step_may_be_written_again(folder):
    write(folder, checkpoint(seed=0))
    write(folder, checkpoint(seed=1))
    assert equal(read_last(folder), checkpoint(seed=1))


def test_the_same_checkpoint_is_not_written_again(folder):
    """While it is taken away to be replaced there might be none that is whole."""
    first = write(folder, checkpoint())
    write(folder, checkpoint(4))
    identity = first.stat().st_ino
    assert write(folder, checkpoint()).stat().st_ino == identity and read_last(folder).step == 3
    (first / "model.safetensors").write_bytes(b"damaged")
    assert write(folder, checkpoint()).stat().st_ino != identity and equal(read_last(folder), checkpoint())


@given(st.sampled_from(FILES), st.floats(0, 0.999))
def test_a_truncated_file_is_refused_and_named(tmp_path_factory, name, fraction):
    path = write(tmp_path_factory.mktemp("cut"), checkpoint())
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(CheckpointError, match=str(path)) as error:
        read(path)
    assert error.value.code == 5


@given(st.sampled_from(["model.safetensors", "optimizer.safetensors"]), st.data())
def test_a_flipped_bit_is_refused_and_named(tmp_path_factory, name, data):
    path = write(tmp_path_factory.mktemp("flip"), checkpoint())
    content = bytearray((path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (path / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{name}.*checksum"):
        read(path)


@given(st.data())
def test_a_flipped_bit_in_the_state_is_refused_or_means_the_same(tmp_path_factory, data):
    path, written = write(tmp_path_factory.mktemp("flip"), checkpoint()), checkpoint()
    content = bytearray((path / "state.json").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (path / "state.json").write_bytes(bytes(content))
    with suppress(CheckpointError):
        assert equal(read(path), written)


@pytest.mark.parametrize(
    ("what", "instead"), [('"position": 8', '"position": 9'), ('"in_a_row": 2', '"in_a_row": 0'), ("0.5", "0.7")]
)
def test_an_altered_state_is_refused_and_named(folder, what, instead):
    path = write(folder, checkpoint())
    content = (path / "state.json").read_text()
    assert what in content
    (path / "state.json").write_text(content.replace(what, instead, 1))
    with pytest.raises(CheckpointError, match=r"state\.json is not what was written.*checksum"):
        read(path)


def test_an_early_checkpoint_whose_state_has_no_checksum_is_read(folder):
    path = write(folder, checkpoint())
    about = json.loads((path / "state.json").read_text())
    about["sha256"].pop("state.json", None)
    (path / "state.json").write_text(json.dumps(about, indent=1))
    assert equal(read(path), checkpoint())


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(folder, name):
    path = write(folder, checkpoint())
    (path / name).unlink()
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read_last(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "altered", "gone"])
def test_a_run_goes_on_from_the_newest_whole_one_and_the_others_are_named(folder, name, how):
    for step in (8, 9, 10, 11):
        write(folder, checkpoint(step, seed=step), keep=9)
    (folder / "last").write_text("step-00000010")  # as a person who wants no later one
    found, damaged, lines = newest_for_all(folder)
    assert (
        equal(found, checkpoint(10, seed=10))
        and not damaged
        and lines == ["goes on after step 10 (checkpoints/step-00000010)"]
    )
    damage(folder / "step-00000010" / name, how)
    damage(folder / "step-00000009" / name, how)
    found, damaged, (first, second, last) = newest_for_all(folder)
    assert damaged == [folder / "step-00000010", folder / "step-00000009"]
    assert equal(found, checkpoint(8, seed=8)) and last == "goes on after step 8 (checkpoints/step-00000008)"
    assert str(folder / "step-00000010") in first and str(folder / "step-00000009") in second
    damage(folder / "step-00000008" / name, how)
    with pytest.raises(CheckpointError, match=r"step-00000010.*step-00000009.*step-00000008.*--out") as error:
        newest_for_all(folder)
    assert error.value.code == 5 and "step-00000011" not in str(error.value) and "\n" not in str(error.value)


def test_what_was_set_aside_is_not_kept_in_the_place_of_a_whole_one(folder):
    for again in (0, 1):
        for step in (10, 20):
            write(folder, checkpoint(step, seed=again), keep=9)
        damage(folder / "step-00000020" / "model.safetensors", "altered")
        found, damaged, _ = newest_for_all(folder)
        set_aside(damaged)
        assert found.step == 10 and newest_for_all(folder)[0].step == 10 and not newest_for_all(folder)[1]
        assert equal(newest_for_all(folder)[0], checkpoint(10, seed=again))
    write(folder, checkpoint(35), keep=2)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["damaged-step-00000020", "last", "step-00000010", "step-00000035"]


def test_a_damaged_one_that_cannot_be_renamed_is_named(folder):
    with pytest.raises(CheckpointError, match="step-00000007 is damaged and could not be renamed"):
        set_aside([folder / "step-00000007"])


def damage(file, how):
    content = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(content[: len(content) // 2] if how == "cut" else b"[1]" + content[3:])


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"step-00000012", b"the-good-one"])
def test_a_run_goes_on_though_last_names_none(folder, content):
    assert newest_for_all(folder) == (None, [], ["there is no checkpoint yet: starts at the first step"])
    for step in (9, 10):
        write(folder, checkpoint(step))
    (folder / "step-of-mine").mkdir()
    (folder / "last").unlink()
    if content is not None:
        (folder / "last").write_bytes(content)
    found, damaged, lines = newest_for_all(folder)
    assert found.step == 10 and not damaged and lines[-1] == "goes on after step 10 (checkpoints/step-00000010)"


class Malicious:
    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self):
        return (Path.touch, (self.sentinel,))


@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_refused_and_not_executed(folder, tmp_path, name):
    path, sentinel = write(folder, checkpoint()), tmp_path / "executed"
    content = pickle.dumps(Malicious(sentinel))
    pickle.loads(content)
    assert sentinel.exists(), "as it would do"
    sentinel.unlink()
    (path / name).write_bytes(content)
    if name != "state.json":  # an attacker can write checksums too, or leave them out
        about = json.loads((path / "state.json").read_text())
        about["sha256"].pop("state.json", None)
        about["sha256"][name] = cl.checkpoint.hashlib.sha256(content).hexdigest()
        (path / "state.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=str(path)):
        read_last(folder)
    assert not sentinel.exists()


def test_nothing_to_resume_from(folder):
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*--resume"):
        read_last(folder)
    folder.mkdir()
    (folder / "last").write_text("step-00000009")
    with pytest.raises(CheckpointError, match="step-00000009 is not a whole checkpoint"):
        read_last(folder)


def test_one_is_read_by_its_step_and_those_there_are_named(folder):
    for step in (1, 2, 30):
        write(folder, checkpoint(step, seed=step), keep=2)
    assert equal(read_step(folder, 2), checkpoint(2, seed=2)) and read_last(folder).step == 30
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 1 in .*there are: 2, 30\."):
        read_step(folder, 1)
    with pytest.raises(CheckpointError, match="there are: none"):
        read_step(folder / "elsewhere", 1)


@pytest.mark.parametrize("when", range(7))
def test_a_full_disk_leaves_the_previous_checkpoint(folder, monkeypatch, when):
    """The disk is full at each of the writes in turn."""
    write(folder, checkpoint(1))
    real, calls = cl.checkpoint.write_synced, []

    def full(path, content):
        calls.append(path.name)
        if len(calls) > when:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    for module in (cl.checkpoint, cl.durable):
        monkeypatch.setattr(module, "write_synced", full)
    if when < 5:
        with pytest.raises(CheckpointError, match="No space left") as error:
            write(folder, checkpoint(2))
        assert error.value.code == 5 and str(folder) in str(error.value)
        assert read_last(folder).step == 1
    else:
        write(folder, checkpoint(2))
    monkeypatch.undo()
    write(folder, checkpoint(3))
    assert equal(read_last(folder), checkpoint(3)) and not [p for p in folder.glob(".step*") if p.is_dir()]


def test_a_disk_that_refuses_to_rename_leaves_the_one_that_was_to_be_replaced(folder, monkeypatch):
    path, rename = write(folder, checkpoint(seed=0)), Path.rename

    def refuse(self, to):
        if to == path and "before" not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write(folder, checkpoint(seed=1))
    assert equal(read_last(folder), checkpoint(seed=0))
    monkeypatch.undo()
    write(folder, checkpoint(seed=1))
    assert equal(read_last(folder), checkpoint(seed=1)) and {each.name for each in folder.iterdir()} == {
        "last",
        path.name,
    }


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        write(tmp_path / "checkpoints", checkpoint())


def test_leftovers_of_a_killed_save_are_ignored(folder):
    write(folder, checkpoint(1))
    shutil.copytree(folder / "step-00000001", folder / ".step-00000002.4711")  # before the rename
    assert read_last(folder).step == 1
    (folder / ".step-00000002.4711").rename(folder / "step-00000002")  # after it, before `last`
    assert read_last(folder).step == 1
    write(folder, checkpoint(2))
    assert equal(read_last(folder), checkpoint(2))


def second_host(how, folder):
    """What rank 1 has where rank 0 has its checkpoints."""
    if how == "another":
        write(folder, checkpoint(3, seed=1))
    elif how != "none":
        write(folder, checkpoint(3))
    if how == "altered":
        damage(folder / "step-00000003" / "model.safetensors", "altered")


HOSTS = {"one folder": False, "a copy": False, "none": True, "another": True, "altered": True}
"""Whether what rank 0 read has to be sent."""


def child(number, folder):
    """Of two processes, as on hosts of their own: whether each came to rank 0's checkpoint, and bytes sent for it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    real, found = dist.broadcast_object_list, {}

    def counted(values):
        sent.append(len(pickle.dumps(values)))
        real(values)

    dist.broadcast_object_list = counted
    for how in HOSTS:
        sent: list[int] = []
        place = folder / ("0" if how == "one folder" else str(number)) / how / "checkpoints"
        place.parent.mkdir(parents=True, exist_ok=True)
        if number == 0:
            torch.manual_seed(0)
            write(place, checkpoint(3))
        elif how != "one folder":
            torch.manual_seed(0)
            second_host(how, place)
        dist.barrier()
        os.chdir(place.parent)
        got, _, lines = newest_for_all(Path("checkpoints"))
        torch.manual_seed(0)
        same = equal(got, checkpoint(3)) and lines == ["goes on after step 3 (checkpoints/step-00000003)"]
        found[how] = [same, sum(sent)]
        dist.barrier()
    (folder / f"{number}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, __file__, str(n), str(folder)], env=environment) for n in (0, 1)]
    try:
        assert [each.wait(timeout=120) for each in running] == [0, 0]
    finally:
        for each in running:
            each.kill()
    return [json.loads((folder / f"{n}.json").read_text()) for n in (0, 1)]


@pytest.mark.parametrize("how", HOSTS)
def test_all_processes_go_on_from_rank_0s_and_it_is_sent_only_where_they_do_not_see_it(two_processes, how):
    size = sum(value.nbytes for rank in checkpoint().ranks for value in rank.tensors.values())
    for same, _ in (each[how] for each in two_processes):
        assert same
    assert (two_processes[0][how][1] > size) == HOSTS[how]


def test_files_and_their_names_are_on_the_disk_before_anything_points_at_them(folder, monkeypatch):
    synced, fsync = [], os.fsync

    def noting(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write(folder, checkpoint(1))
    *files, aside, around, last, again = synced
    assert sorted(files) == ["model.safetensors", "optimizer.safetensors", "ranks.safetensors", "state.json"]
    assert aside.startswith(".step-") and around == again == folder.name and last.startswith(".last.")


if __name__ == "__main__":
    child(int(sys.argv[1]), Path(sys.argv[2]))
