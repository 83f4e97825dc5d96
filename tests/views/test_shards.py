import hashlib
import io
import json
import logging
import pickle
import shutil
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cl.errors import DataError
from cl.views.decode import decode, square
from cl.views.groups import stable_hash
from cl.views.samples import DataSet
from cl.views.shards import Shards
from cl.views.write_shards import write_shards


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def picture(seed=0, h=6, w=6):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def members(i, **changed):
    plain = {"png": encoded(picture(i)), "cls": str(i % 3).encode(), "txt": f"picture {i}\n".encode()}
    return {name: content for name, content in (plain | changed).items() if content is not None}


def written(folder, n=5, per_shard=2, **changed):
    """n samples in shards of two; `changed` are members of the last one."""
    samples = [(f"{i:03d}", members(i, **(changed if i == n - 1 else {}))) for i in range(n)]
    write_shards(folder, "things/train", samples, per_shard)
    return folder


def tar(path, files):
    with tarfile.open(path, "w") as stream:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            stream.addfile(info, io.BytesIO(content))
    return path


def refused(match, *arguments, **settings):
    with pytest.raises(DataError, match=match) as caught:
        Shards(*arguments, **settings).load()
    assert "\n" not in str(caught.value).strip()


def test_gives_back_what_was_written(tmp_path):
    data = Shards(str(written(tmp_path)))
    assert isinstance(data, DataSet) and data.provides == {"labels", "captions"}
    samples = data.load()
    assert samples.keys == ("000", "001", "002", "003", "004") and samples.label.tolist() == [0, 1, 2, 0, 1]
    assert samples.captions == tuple(f"picture {i}" for i in range(5))
    for i in range(5):
        assert np.array_equal(samples.images[i].permute(1, 2, 0).numpy(), picture(i))
    assert samples.sample[3] == stable_hash("things/train", "shard-000001.tar", "003")


@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 8))
def test_any_chunks_of_any_shards_are_all_samples_in_order(n, per_shard, chunk):
    with tempfile.TemporaryDirectory() as folder:
        data = Shards(str(written(Path(folder), n, per_shard)))
        parts = list(data.read(chunk))
        assert [len(part) for part in parts[:-1]] == [chunk] * (len(parts) - 1)
        assert [key for part in parts for key in part.keys] == [f"{i:03d}" for i in range(n)]
        assert len(data.load().sample.unique()) == n


def test_the_constructor_opens_nothing():
    Shards("/no/such/folder")


def test_label_and_caption_may_be_left_out(tmp_path):
    data = Shards(str(written(tmp_path)), label=None, caption=None)
    assert data.provides == frozenset()
    samples = data.load()
    assert samples.label.tolist() == [-1] * 5 and samples.captions == ("",) * 5


def test_shards_by_name_by_braces_and_as_a_list(tmp_path):
    written(tmp_path)
    names = [f"{tmp_path}/shard-00000{i}.tar" for i in range(3)]
    whole = Shards(str(tmp_path)).load()
    for path in (f"{tmp_path}/shard-{{000000..000002}}.tar", names):
        samples = Shards(path).load()
        assert samples.keys == whole.keys and torch.equal(samples.sample, whole.sample)
    assert Shards(names[1]).load().keys == ("002", "003")


def test_the_order_of_shards_may_be_chosen(tmp_path):
    keys = [record.members["__key__"] for record in Shards(str(written(tmp_path))).records(lambda n: range(n)[::-1])]
    assert keys == ["004", "002", "003", "000", "001"]


def test_without_an_index_shards_are_read_with_a_warning(tmp_path, caplog):
    (written(tmp_path) / "index.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(Shards(str(tmp_path)).load()) == 5
    assert "no index.json" in caplog.text


def test_a_missing_folder(tmp_path):
    refused("nowhere.*make_shards", str(tmp_path / "nowhere"))
    refused("neither index.json nor", str(tmp_path))
    refused("empty list", [])


def test_a_tar_cut_between_samples(tmp_path):
    path = written(tmp_path, 4, 4) / "shard-000000.tar"
    tar(path, [(f"{i:03d}.{name}", content) for i in range(3) for name, content in members(i).items()])
    refused(r"shard-000000\.tar: its index says 4 samples, found 3", str(tmp_path))


def test_a_tar_cut_within_a_sample_at_a_members_border(tmp_path):
    path = written(tmp_path, 2, 2) / "shard-000000.tar"
    tar(path, [*[(f"000.{name}", content) for name, content in members(0).items()], ("001.cls", b"1")])
    refused(r"shard-000000\.tar: '001' has no picture: its members are cls", str(tmp_path))


@pytest.mark.parametrize("keep", [700, 1000, 2000, 3000])
def test_a_tar_cut_within_a_member(tmp_path, keep):
    path = written(tmp_path) / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:keep])
    refused(r"shard-000001\.tar", str(tmp_path))


def test_a_shard_that_is_empty_garbage_or_without_samples(tmp_path):
    path = written(tmp_path, 1) / "shard-000000.tar"
    for content, match in (
        (b"", "empty file"),
        (b"garbage" * 999, "not a whole tar"),
        (bytes(10240), "found 0|without"),
    ):
        path.write_bytes(content)
        refused(rf"shard-000000\.tar.*({match})", str(tmp_path))


def test_a_key_that_comes_twice_in_one_shard_or_in_two(tmp_path):
    interleaved = [("a.png", encoded(picture())), ("b.png", encoded(picture())), ("a.cls", b"1")]
    tar(tmp_path / "a.tar", interleaved)
    refused(r"a\.tar: the key 'a' comes twice", str(tmp_path / "a.tar"), label=None, caption=None)
    written(tmp_path / "one")
    shutil.copy(tmp_path / "one" / "shard-000000.tar", tmp_path / "copy.tar")
    refused(
        r"copy\.tar: the key '000' comes twice",
        [str(tmp_path / "one" / "shard-000000.tar"), str(tmp_path / "copy.tar")],
    )


def test_a_member_that_comes_twice(tmp_path):
    tar(tmp_path / "a.tar", [("a.png", encoded(picture())), ("a.png", encoded(picture()))])
    refused(r"a\.tar: .*duplicate", str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "index",
    ["", "[]", '{"shards": 3}', '{"name": "x", "shards": [{"name": "y.tar"}]}', '{"name": "x", "shards": []}'],
)
def test_an_index_that_is_none(tmp_path, index):
    (written(tmp_path) / "index.json").write_text(index)
    refused("index", str(tmp_path))


@pytest.mark.parametrize("name", ["gone.tar", "../shard.tar", "/etc/passwd"])
def test_an_index_that_names_what_is_not_in_its_folder(tmp_path, name):
    index = {"name": "x", "shards": [{"name": name, "samples": 1}]}
    folder = tmp_path / "inner"
    (written(folder) / "index.json").write_text(json.dumps(index))
    shutil.copy(folder / "shard-000000.tar", tmp_path / "shard.tar")
    refused(f"names the shard '{name}', which is not in", str(folder))


@pytest.mark.parametrize(
    "changed, match",
    [
        ({"png": None}, "'004' has no picture"),
        ({"png": b"no picture"}, "'004' has no picture"),
        ({"png": encoded(picture())[:60]}, "'004' has no picture"),
        ({"png": encoded(picture(), "JPEG")[:200]}, "'004' has no picture"),
        ({"cls": None}, "'004' has no member 'cls'"),
        ({"cls": b"three"}, "'004' has a label or caption"),
        ({"txt": None}, "'004' has no member 'txt'"),
        ({"txt": b"\xff\xfe"}, "'004' has a label or caption"),
    ],
    ids=range(8),
)
def test_a_sample_that_cannot_be_read_is_named(tmp_path, changed, match):
    refused(rf"shard-000002\.tar: {match}", str(written(tmp_path, **changed)))


@pytest.mark.parametrize("prefix", ["pipe:", "file:", "http://localhost/", "s3://", "PIPE:"])
def test_commands_and_urls_are_refused_and_not_run(tmp_path, prefix):
    sentinel = tmp_path / "sentinel"
    for path in (f"{prefix}touch {sentinel}", [f"{prefix}touch {sentinel}"]):
        refused("URLs and commands", path)
    assert not sentinel.exists()


def test_pickled_members_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "sentinel"), "w"))

    bomb = pickle.dumps(Bomb())
    samples = [("a", members(0) | {"pkl": bomb, "pyd": bomb, "pth": bomb})]
    write_shards(tmp_path / "data", "x", samples, 10)
    assert len(Shards(str(tmp_path / "data")).load()) == 1
    assert not (tmp_path / "sentinel").exists()


def test_pictures_of_different_sizes_need_a_size(tmp_path):
    written(tmp_path, png=encoded(picture(4, 9, 12)))
    refused("'004' is a picture of 12 x 9 pixels, '000' one of 6 x 6. Set Shards.size", str(tmp_path))
    assert Shards(str(tmp_path), size=8).load().images.shape == (5, 3, 8, 8)
    assert [tuple(sample.image.shape) for sample in Shards(str(tmp_path)).samples()][-1] == (3, 9, 12)


def test_refuses_a_size_below_one():
    with pytest.raises(ValueError, match=r"Shards\.size"):
        Shards("x", size=0)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_a_square_is_of_the_middle(h, w, size):
    plain = np.full((h, w, 3), 9, np.uint8)
    assert np.array_equal(square(plain, size), np.full((size, size, 3), 9))
    bright = np.zeros((h, w, 3), np.uint8)
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    bright[top : top + side, left : left + side] = 200
    if size == side:
        assert np.array_equal(square(bright, size), bright[top : top + side, left : left + side])


def test_shrinking_averages_areas():
    image = np.array([[0, 100], [100, 200]], np.uint8)[..., None].repeat(3, axis=2)
    assert np.array_equal(square(image, 1), np.full((1, 1, 3), 100))


def test_every_kind_of_picture_becomes_rgb():
    color = np.zeros((8, 8, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    gray = np.full((8, 8), 90, np.uint8)
    kinds = {
        "png": encoded(color),
        "jpeg": simplejpeg.encode_jpeg(color, quality=95),
        "webp": encoded(color, "WEBP", lossless=True),
        "opencv": cv2.imencode(".png", color[..., ::-1])[1].tobytes(),
    }
    for name, content in kinds.items():
        assert np.abs(decode(content).astype(int) - color).max() <= 3, name
    assert np.array_equal(decode(encoded(gray)), np.full((8, 8, 3), 90))
    assert np.abs(decode(encoded(gray, "JPEG")).astype(int) - 90).max() <= 1
    cmyk = io.BytesIO()
    Image.fromarray(color).convert("CMYK").save(cmyk, "JPEG", quality=95)
    assert np.abs(decode(cmyk.getvalue()).astype(int) - color).max() <= 6


def test_writing_refuses_a_folder_in_use(tmp_path):
    with pytest.raises(FileExistsError, match="not empty"):
        written(written(tmp_path))


def test_the_index_says_what_is_there(tmp_path):
    index = json.loads((written(tmp_path) / "index.json").read_text())
    assert index["name"] == "things/train" and index["extensions"] == ["cls", "png", "txt"]
    assert [shard["samples"] for shard in index["shards"]] == [2, 2, 1]
    for shard in index["shards"]:
        content = (tmp_path / shard["name"]).read_bytes()
        assert shard["bytes"] == len(content) and shard["sha256"] == hashlib.sha256(content).hexdigest()
