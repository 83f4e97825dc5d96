"""tools/make_shards.py: what it writes, what it leaves out, and that it goes on where it stopped."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cl.errors import DataError
from cl.make_shards import main, parser
from cl.views import torchvision_set
from cl.views.folder import Folder
from cl.views.making import NOTES, make_shards
from cl.views.records import BadSample
from cl.views.shards import Shards

ROOT = Path(__file__).parent.parent


def pictures(folder, n=6, height=20, width=30):
    folder.mkdir()
    for i in range(n):
        image = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_are_shrunk_on_request(tmp_path):
    folder = pictures(tmp_path / "in")
    cv2.imwrite(str(folder / "small.png"), np.zeros((8, 9, 3), np.uint8))
    assert main(["folder", str(folder), str(tmp_path / "out"), "--shorter", "10"]) == 0
    data = Shards(str(tmp_path / "out"), label=None, caption=None)
    records = data.records()
    assert records.having == {"jpg": 6, "png": 1}
    assert data.decoded(records[0]).image.shape == (3, 10, 15) and data.decoded(records[6]).image.shape == (3, 8, 9)
    assert records[0].sample == Folder(str(folder)).records()[0].sample


def test_what_cannot_be_used_is_left_out_and_told(tmp_path, capsys):
    folder = pictures(tmp_path / "in", 4)
    for name in ("1x.png", "1y.jpg"):
        (folder / name).write_bytes(b"no picture")
    arguments = ["folder", str(folder), str(tmp_path / "out"), "--per-shard", "1"]
    assert main(arguments) == 3
    assert "more than max_bad_fraction" in capsys.readouterr().err
    assert main([*arguments, "--max-bad-fraction", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "4 samples in 4 shards" in out and "2 cannot be used and were left out: 2 in" in out
    assert len(Shards(str(tmp_path / "out"), label=None, caption=None).load()) == 4


def test_a_call_that_was_interrupted_goes_on_and_writes_the_same(tmp_path):
    source = Folder(str(pictures(tmp_path / "in", 9)))
    make_shards(source, tmp_path / "whole", "x", 2)

    class Interrupted(Exception):
        pass

    def stop(done, total):
        if done >= 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        make_shards(source, tmp_path / "parts", "x", 2, workers=1, progress=stop)
    first = (tmp_path / "parts" / "00000.tar").stat().st_mtime_ns
    assert not (tmp_path / "parts" / "index.json").exists()
    with pytest.raises(DataError, match="begun with other settings"):
        make_shards(source, tmp_path / "parts", "x", 3)
    make_shards(source, tmp_path / "parts", "x", 2)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert (tmp_path / "parts" / "00000.tar").stat().st_mtime_ns == first


def test_killed_at_any_moment_it_goes_on(tmp_path):
    pictures(tmp_path / "in", 60)
    arguments = ["folder", str(tmp_path / "in"), str(tmp_path / "out"), "--per-shard", "1"]
    command = [sys.executable, "tools/make_shards.py", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (tmp_path / "out" / "00003.tar").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main(arguments) == 0
    data = Shards(str(tmp_path / "out"), label=None, caption=None)
    assert data.load().keys == tuple(f"{i:03d}" for i in range(60))
    assert not list((tmp_path / "out").glob(".*"))


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    folder = pictures(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    assert main(["folder", str(folder), str(tmp_path / "out")]) == 5
    assert "not empty" in capsys.readouterr().err
    assert main(["folder", str(folder), str(tmp_path / "new")]) == 0
    assert main(["folder", str(folder), str(tmp_path / "new")]) == 5
    assert "complete" in capsys.readouterr().err


def test_a_torchvision_set_that_is_on_disk(tmp_path, capsys):
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    from torchvision.datasets import CIFAR10

    for name, _ in CIFAR10.test_list:
        (base / name).write_bytes(pickle.dumps({"data": image, "labels": [3, 1, 4, 1]}))
    arguments = ["torchvision", "CIFAR10", str(tmp_path / "out"), "--root", str(tmp_path)]
    assert main([*arguments, "--split", "test"]) == 3  # its checksums are not those of the real files
    assert "CIFAR10 cannot be opened" in capsys.readouterr().err
    assert main(["torchvision", "CIFAR11", str(tmp_path / "out"), "--root", str(tmp_path)]) == 3
    assert main([*arguments, "--split", "validation"]) == 3
    assert "the splits train and test, not 'validation'" in capsys.readouterr().err


def test_a_torchvision_set_becomes_shards(tmp_path, monkeypatch):
    import torchvision.datasets

    from cl.views.torchvision_set import TorchvisionSet

    class Toy:
        def __init__(self, root, train=True, download=False):
            assert not download
            self.images = torch.arange(3 * 4 * 4 * 3).reshape(3, 4, 4, 3).byte().numpy()

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return Image.fromarray(self.images[index]), 7 - index

    monkeypatch.setattr(torchvision.datasets, "Toy", Toy, raising=False)
    source = TorchvisionSet("Toy", tmp_path, "train")
    make_shards(source, tmp_path / "out", source.records().name, 2, workers=1)
    samples = Shards(str(tmp_path / "out"), caption=None).load()
    assert samples.label.tolist() == [7, 6, 5] and samples.keys == ("00000000", "00000001", "00000002")
    assert np.array_equal(samples.images.permute(0, 2, 3, 1).numpy(), Toy(None).images)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["name"] == "Toy/train"


def tar(path, members):
    with tarfile.open(path, "w") as stream:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            stream.addfile(info, io.BytesIO(content))
    return path


def png(seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def test_shards_of_others_are_indexed_and_what_one_should_know_is_told(tmp_path, capsys):
    tar(tmp_path / "00000.tar", [("a.jpg", png()), ("a.txt", b"x"), ("b.jpg", png(1)), ("README", b"")])
    tar(tmp_path / "00001.tar", [("c.jpg", b"none"), ("c.txt", b"y"), ("c.pkl", b"z")])
    assert main(["index", str(tmp_path), "--name", "mine", "--decode"]) == 0
    out = capsys.readouterr().out
    assert "3 samples in 2 shards; members: jpg, pkl (missing in 2), txt (missing in 1)" in out
    assert "00000.tar: 1 members without an extension" in out and "never opened: pkl" in out
    assert "1 pictures cannot be decoded: 1 in" in out
    assert len(Shards(str(tmp_path), label=None, caption=None).records()) == 3
    tar(tmp_path / "00001.tar", [("d.jpg", png())])
    (tmp_path / "00000.tar").rename(tmp_path / "00002.tar")
    assert main(["index", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for line in ("00000.tar: gone", "00002.tar: new", "00001.tar: changed"):
        assert f"{line} since the last index" in out


def test_everything_that_is_wrong_with_shards_is_named(tmp_path, capsys):
    whole = tar(tmp_path / "ok.tar", [("a.png", png()), ("b.png", png(1))])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:600])
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "garbage.tar").write_bytes(b"x" * 2000)
    (tmp_path / "nothing.tar").write_bytes(bytes(1024))
    tar(tmp_path / "twice.tar", [("a.png", png())])
    assert main(["index", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    for line in (
        *("cut.tar: cut at byte 600", "empty.tar: an empty file", "garbage.tar: not a tar file"),
        *("nothing.tar: a tar file without any sample", "twice.tar: the key 'a' comes twice", "5 problems"),
    ):
        assert line in error
    assert not (tmp_path / "index.json").exists()


def test_a_missing_folder(tmp_path, capsys):
    assert main(["index", str(tmp_path / "gone")]) == 3
    assert "There is no folder" in capsys.readouterr().err
    assert main(["index", str(tmp_path)]) == 3
    assert "holds no shards" in capsys.readouterr().err


def test_indexing_anew_keeps_the_name_and_so_the_ids(tmp_path):
    assert main(["folder", str(pictures(tmp_path / "in", 3)), str(tmp_path / "out")]) == 0
    ids = lambda: Shards(str(tmp_path / "out"), label=None, caption=None).load().sample.tolist()  # noqa: E731
    before = ids()
    assert main(["index", str(tmp_path / "out")]) == 0 and ids() == before
    assert main(["index", str(tmp_path / "out"), "--name", "other"]) == 0 and ids() != before


def test_going_on_with_other_labels_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    pictures(tmp_path / "in" / "a", 4)
    plain, labelled = (Folder(str(tmp_path / "in"), label=label) for label in (False, True))
    with pytest.raises(ZeroDivisionError):
        make_shards(plain, tmp_path / "out", "x", 2, workers=1, progress=lambda done, total: 1 // 0)
    with pytest.raises(DataError, match="begun with other settings"):
        make_shards(labelled, tmp_path / "out", "x", 2, workers=1)


def test_going_on_with_other_pictures_of_as_many_names_is_refused(tmp_path):
    pictures(tmp_path / "in", 4)
    with pytest.raises(ZeroDivisionError):
        make_shards(Folder(str(tmp_path / "in")), tmp_path / "out", "x", 2, workers=1, progress=lambda *_: 1 // 0)
    cv2.imwrite(str(tmp_path / "in" / "003.png"), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DataError, match="begun with other settings or another source"):
        make_shards(Folder(str(tmp_path / "in")), tmp_path / "out", "x", 2, workers=1)


@pytest.mark.parametrize("keep", [0, -5])
def test_notes_that_were_cut_short_are_gone_on_from(tmp_path, keep):
    """As a stop between creating and writing them leaves them, and as a full disk does."""
    folder = Folder(str(pictures(tmp_path / "in", 6)))
    out, notes = tmp_path / "out", tmp_path / "out" / NOTES
    with pytest.raises(ZeroDivisionError):
        make_shards(folder, out, "x", 2, workers=1, progress=lambda *_: 1 // 0)
    notes.write_text(notes.read_text()[:keep] if keep else "")
    if not keep:
        for path in out.glob("*.tar"):
            path.unlink()
    make_shards(folder, out, "x", 2, workers=1)
    assert Shards(str(out), label=None, caption=None).load().keys == tuple(f"{i:03d}" for i in range(6))


def test_a_job_begun_before_its_notes_had_samples_is_gone_on_with(tmp_path):
    folder = Folder(str(pictures(tmp_path / "in", 6)))
    with pytest.raises(ZeroDivisionError):
        make_shards(folder, tmp_path / "out", "x", 2, workers=1, progress=lambda *_: 1 // 0)
    job, *shards = (tmp_path / "out" / NOTES).read_text().splitlines()
    job = {name: value for name, value in json.loads(job).items() if name != "some"}
    (tmp_path / "out" / NOTES).write_text("\n".join([json.dumps(job), *shards, ""]))
    make_shards(folder, tmp_path / "out", "x", 2, workers=1)
    assert len(Shards(str(tmp_path / "out"), label=None, caption=None).load()) == 6


def test_a_process_that_dies_is_told(tmp_path):
    class Deadly(Folder):
        def decoded(self, record):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"A process that reads data ended.*lower --workers"):
        make_shards(Deadly(str(pictures(tmp_path / "in", 4))), tmp_path / "out", "x", 2, workers=1)


def test_a_torchvision_set_with_pictures_that_cannot_be_read_or_are_of_other_colours(tmp_path):
    class Faulty:
        def __len__(self):
            return 3

        def __getitem__(self, position):
            if position == 1:
                raise Image.UnidentifiedImageError("cannot identify image file")
            return Image.new("CMYK" if position else "RGB", (4, 4)), position

    records = torchvision_set._Records(Faulty(), "x", tmp_path)
    data = torchvision_set.TorchvisionSet("x", tmp_path, "train", max_bad_fraction=0.5)
    assert data.decoded(records[2]).image.shape == (3, 4, 4)
    with pytest.raises(BadSample, match="no picture"):
        data.decoded(records[1])


def test_nothing_that_can_be_used(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no picture")
    assert main(["folder", str(tmp_path / "in"), str(tmp_path / "out"), "--max-bad-fraction", "1"]) == 3
    assert "None of 1 samples can be used" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--per-shard 0", "--shorter 0", "--workers 0", "--max-bad-fraction 1.5"])
def test_numbers_out_of_range_are_a_usage_error(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as stopped:
        main(["folder", str(tmp_path), str(tmp_path / "out"), *wrong.split()])
    assert stopped.value.code == 2 and wrong.split()[0] in capsys.readouterr().err


def test_a_torchvision_set_without_class_numbers(tmp_path, monkeypatch):
    import torchvision.datasets

    from cl.views.torchvision_set import TorchvisionSet

    class Boxes(list):
        def __init__(self, root):
            super().__init__([(Image.new("RGB", (4, 4)), {"boxes": []})])

    monkeypatch.setattr(torchvision.datasets, "Boxes", Boxes, raising=False)
    with pytest.raises(DataError, match="Boxes/train has no class numbers: of a picture it says dict"):
        make_shards(TorchvisionSet("Boxes", tmp_path, "train"), tmp_path / "out", "x", 2, workers=1)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    out = capsys.readouterr().out
    for word in ("digits", "folder", "pairs", "torchvision", "index", "Shards.path"):
        assert word in out
