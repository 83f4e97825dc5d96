import hashlib
import io
import json
import logging
import pickle
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cl.errors import DataError
from cl.views.folder import Folder
from cl.views.groups import stable_hash
from cl.views.index import scan, write_index
from cl.views.pairs import Pairs
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
    assert samples.captions == tuple((f"picture {i}",) for i in range(5))
    for i in range(5):
        assert np.array_equal(samples.images[i].permute(1, 2, 0).numpy(), picture(i))
    assert samples.sample[3] == stable_hash("things/train", "003")


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
    assert samples.label.tolist() == [-1] * 5 and samples.captions == (("",),) * 5


def test_shards_by_name_by_braces_and_as_a_list(tmp_path):
    written(tmp_path)
    names = [f"{tmp_path}/0000{i}.tar" for i in range(3)]
    whole = Shards(str(tmp_path)).load()
    for path in (f"{tmp_path}/{{00000..00002}}.tar", names):
        samples = Shards(path).load()
        assert samples.keys == whole.keys and torch.equal(samples.sample, whole.sample)
    assert Shards(names[1]).load().keys == ("002", "003")


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(1, 8))
def test_samples_are_found_by_their_position(positions, per_shard):
    with tempfile.TemporaryDirectory() as folder:
        data = Shards(str(written(Path(folder), 7, per_shard)))
        records = data.records()
        assert len(records) == 7 and data.records() is records
        assert [records[position].key for position in positions] == [f"{position:03d}" for position in positions]
        for position in positions:
            assert records[position].members == members(position)
            assert data.decoded(records[position]).label == position % 3


def test_ids_are_the_same_in_other_shards_and_differ_between_data_sets(tmp_path):
    samples = [(f"{i:03d}", members(i)) for i in range(5)]
    for name, per_shard in (("a", 2), ("b", 3), ("c", 3)):
        write_shards(tmp_path / name, "things" if name != "c" else "others", samples, per_shard)
    a, b, c = (set(Shards(str(tmp_path / name)).load().sample.tolist()) for name in "abc")
    assert a == b and not a & c


def test_without_an_index_shards_are_read_with_a_warning(tmp_path, caplog):
    (written(tmp_path) / "index.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(Shards(str(tmp_path)).load()) == 5
    assert "no index.json" in caplog.text and "make_shards.py index" in caplog.text


def test_a_missing_folder(tmp_path):
    refused("nowhere.*make_shards", str(tmp_path / "nowhere"))
    refused("neither index.json nor", str(tmp_path))
    refused("empty list", [])


def test_a_tar_cut_between_samples(tmp_path):
    path = written(tmp_path, 4, 4) / "00000.tar"
    tar(path, [(f"{i:03d}.{name}", content) for i in range(3) for name, content in members(i).items()])
    refused(r"00000\.tar: its index says 4 samples in [\d,]+ bytes, found 3 in", str(tmp_path))


def test_a_tar_cut_within_a_sample_at_a_members_border(tmp_path):
    path = written(tmp_path, 2, 2) / "00000.tar"
    tar(path, [*[(f"000.{name}", content) for name, content in members(0).items()], ("001.cls", b"1")])
    # The file is as long as before: tar files end with a good deal of nothing.
    refused(r"00000\.tar: '001' has no picture: its members are cls", str(tmp_path))
    for name in ("index.json", "offsets.npy"):
        (tmp_path / name).unlink()
    refused(r"Shards: 1 of 2 samples have a picture: .* cls \(2\), png \(1\)", str(tmp_path))
    kept = Shards(str(tmp_path), caption=None, max_bad_fraction=0.5).load()
    assert kept.keys == ("000",) and kept.skipped == {f"{path}: no picture": 1}


def test_without_an_index_a_tar_cut_between_samples_is_known_by_its_end(tmp_path):
    path = written(tmp_path, 4, 4) / "00000.tar"
    cut = scan(path).offsets[3]
    path.write_bytes(path.read_bytes()[:cut])
    refused(r"00000\.tar: its index says 4 samples in [\d,]+ bytes, found 3 in", str(tmp_path))
    for name in ("index.json", "offsets.npy"):
        (tmp_path / name).unlink()
    refused(r"00000\.tar: it has 3 samples and ends without the end mark", str(tmp_path))
    write_index(tmp_path, "meant to be so", [scan(path, digest=True)])
    assert len(Shards(str(tmp_path)).load()) == 3


@pytest.mark.parametrize("keep", [300, 600, 1700, 3400])
def test_a_tar_cut_within_a_member(tmp_path, keep):
    path = written(tmp_path) / "00001.tar"
    path.write_bytes(path.read_bytes()[:keep])
    refused(rf"00001\.tar: (cut .*at byte {keep}|.* found 1 in {keep}\.)", str(tmp_path))


def test_a_shard_changed_while_it_is_trained_on(tmp_path):
    records = Shards(str(written(tmp_path))).records()
    path = tmp_path / "00001.tar"
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(DataError, match=r"00001\.tar: cut at byte 1000 since it was opened"):
        records[3]
    path.write_bytes(b"x" * len(content))
    with pytest.raises(DataError, match=r"00001\.tar: not a tar file.*index it anew"):
        records[3]
    path.write_bytes(bytes(len(content)))
    with pytest.raises(DataError, match=r"00001\.tar: no sample where its index says"):
        records[3]
    path.unlink()
    with pytest.raises(DataError, match=r"00001\.tar: cannot be read \(No such file"):
        records[3]


def test_a_shard_that_is_empty_garbage_or_without_samples(tmp_path):
    path = written(tmp_path, 1) / "00000.tar"
    for content, match in (
        (b"", "empty file"),
        (b"garbage" * 999, "not a tar file"),
        (bytes(10240), "no sample where its index says one is"),
        (bytes(1024), "a tar file without any sample"),
    ):
        path.write_bytes(content)
        refused(rf"00000\.tar.*({match})", str(tmp_path))


def test_a_key_that_comes_twice_in_one_shard_or_in_two(tmp_path):
    interleaved = [("a.png", encoded(picture())), ("b.png", encoded(picture())), ("a.cls", b"1")]
    tar(tmp_path / "a.tar", interleaved)
    refused(r"a\.tar: the key 'a' comes twice", str(tmp_path / "a.tar"), label=None, caption=None)
    written(tmp_path / "one")
    shutil.copy(tmp_path / "one" / "00000.tar", tmp_path / "copy.tar")
    shutil.copy(tmp_path / "copy.tar", tmp_path / "again.tar")
    refused(r"copy\.tar: the key '000' comes twice", [str(tmp_path / name) for name in ("again.tar", "copy.tar")])
    refused("names a shard of .* twice", [str(tmp_path / "copy.tar")] * 2)


def test_two_data_sets_of_one_name_cannot_be_told_apart(tmp_path):
    both = [str(written(tmp_path / name) / "00000.tar") for name in ("one", "two")]
    refused("both the data set 'things/train'", both)
    write_index(tmp_path / "two", "others", [scan(tmp_path / "two" / "00000.tar")])
    assert Shards(both).load().keys == ("000", "001") * 2


def test_a_member_that_comes_twice(tmp_path):
    tar(tmp_path / "a.tar", [("a.png", encoded(picture())), ("a.png", encoded(picture()))])
    refused(r"a\.tar: the member 'a.png' comes twice", str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "index",
    ["", "[]", '{"shards": 3}', '{"name": "x", "shards": [{"name": "y.tar"}]}', '{"name": "x", "shards": []}'],
)
def test_an_index_that_is_none(tmp_path, index):
    (written(tmp_path) / "index.json").write_text(index)
    refused("index", str(tmp_path))


@pytest.mark.parametrize("name", ["gone.tar", "../shard.tar", "/etc/passwd"])
def test_an_index_that_names_what_is_not_in_its_folder(tmp_path, name):
    index = {"name": "x", "shards": [{"name": name, "samples": 1, "bytes": 1}]}
    folder = tmp_path / "inner"
    (written(folder) / "index.json").write_text(json.dumps(index))
    (folder / "offsets.npy").unlink()
    shutil.copy(folder / "00000.tar", tmp_path / "shard.tar")
    refused(f"names the shard '{name}', which is not in", str(folder))


@pytest.mark.parametrize(
    "changed, match",
    [
        ({"png": b"no picture"}, "a picture that cannot be decoded"),
        ({"png": b""}, "a picture that cannot be decoded"),
        ({"png": encoded(picture())[:60]}, "a picture that cannot be decoded"),
        ({"png": encoded(picture(), "JPEG")[:200]}, "a picture that cannot be decoded"),
        ({"cls": b"three"}, "a label that is no number"),
        ({"txt": b"\xff\xfe"}, "a caption that is not UTF-8"),
        ({"txt": b" \n"}, "an empty caption"),
    ],
    ids=range(7),
)
def test_a_sample_that_cannot_be_used_is_counted_and_too_many_are_named(tmp_path, caplog, changed, match):
    path = str(written(tmp_path, **changed))
    refused(rf"00002\.tar: '004' has {match}.*more than max_bad_fraction", path)
    with caplog.at_level(logging.WARNING):
        samples = Shards(path, max_bad_fraction=0.2).load()
    assert samples.keys == ("000", "001", "002", "003")
    assert samples.skipped == {f"{tmp_path}/00002.tar: {match}": 1} and f"00002.tar: {match}" in caplog.text


@pytest.mark.parametrize("missing, what", [("png", "picture"), ("cls", "label"), ("txt", "caption")])
def test_a_missing_member_is_known_from_the_index(tmp_path, missing, what):
    path = str(written(tmp_path, **{missing: None}))
    with pytest.raises(DataError, match=f"Shards: 4 of 5 samples have a {what}"):
        Shards(path).records()
    samples = Shards(path, max_bad_fraction=0.2).load()
    assert samples.keys == ("000", "001", "002", "003")
    assert samples.skipped == {f"{tmp_path}/00002.tar: no {what}": 1}


def test_all_samples_that_cannot_be_used(tmp_path):
    write_shards(tmp_path, "x", [("a", members(0, png=b"no"))], 1)
    with pytest.raises(DataError, match=r"None of 1 samples can be used: 1 in .*cannot be decoded"):
        Shards(str(tmp_path), max_bad_fraction=1.0).load()


def test_several_captions(tmp_path):
    texts = {"1.txt": b"one", "2.txt": b"two", "de.txt": b"eins", "4.txt": b"four"}
    write_shards(tmp_path, "x", [("a", members(0, **texts)), ("b", members(1))], 2)
    captions = lambda *names: Shards(str(tmp_path), caption=names, max_bad_fraction=0.5).load().captions  # noqa: E731
    assert captions("txt") == (("picture 0", "one", "two"), ("picture 1",))
    assert captions("de.txt", "1.txt", "txt") == (("eins", "one", "picture 0", "one", "two"), ("picture 1",))
    assert captions("de.txt") == (("eins",),)


@pytest.mark.parametrize("extension", ["pkl", "pyd", "pth", "x.pt"])
def test_pickles_are_refused_as_labels_and_captions(extension):
    for setting in ("label", "caption"):
        with pytest.raises(ValueError, match="pickles, which are never opened"):
            Shards("x", **{setting: extension})


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


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(wrong):
    for kind in (Shards, Folder, Pairs):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.max_bad_fraction"):
            kind("x", max_bad_fraction=wrong)


def test_pictures_of_different_sizes_need_a_size(tmp_path):
    written(tmp_path, png=encoded(picture(4, 9, 12)))
    refused("'004' is a picture of 12 x 9 pixels, '000' one of 6 x 6. Set Shards.size", str(tmp_path))
    assert Shards(str(tmp_path), size=8).load().images.shape == (5, 3, 8, 8)
    data = Shards(str(tmp_path))
    assert data.decoded(data.records()[4]).image.shape == (3, 9, 12)


def test_refuses_a_size_below_one():
    with pytest.raises(ValueError, match=r"Shards\.size"):
        Shards("x", size=0)


def test_writing_refuses_a_folder_in_use(tmp_path):
    with pytest.raises(FileExistsError, match="not empty"):
        written(written(tmp_path))


def test_the_index_says_what_is_there(tmp_path):
    index = json.loads((written(tmp_path) / "index.json").read_text())
    assert index["name"] == "things/train" and index["extensions"] == ["cls", "png", "txt"]
    assert [shard["samples"] for shard in index["shards"]] == [2, 2, 1]
    assert [shard["extensions"]["png"] for shard in index["shards"]] == [2, 2, 1]
    assert len(np.load(tmp_path / "offsets.npy")) == 8
    for shard in index["shards"]:
        content = (tmp_path / shard["name"]).read_bytes()
        assert shard["bytes"] == len(content) and shard["sha256"] == hashlib.sha256(content).hexdigest()


def test_an_index_of_an_earlier_version_has_no_offsets(tmp_path):
    (written(tmp_path) / "offsets.npy").unlink()
    index = json.loads((tmp_path / "index.json").read_text())
    for shard in index["shards"]:
        del shard["extensions"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert len(Shards(str(tmp_path)).load()) == 5


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1]), b"\x93NUMPY\x01\x00"])
def test_offsets_that_are_none(tmp_path, content):
    (written(tmp_path) / "offsets.npy").write_bytes(content)
    refused("cannot be read as an index of shards.*make_shards.py index", str(tmp_path))


def test_offsets_of_other_shards(tmp_path):
    written(tmp_path)
    np.save(tmp_path / "offsets.npy", np.arange(3))
    refused("offsets.npy is of other shards", str(tmp_path))


@pytest.mark.parametrize("key", ["/abs/x", "../../x", "a/../../x", "a.b", "d/a.b"])
def test_keys_that_lead_out_of_a_folder_or_would_be_split_are_not_written(tmp_path, key):
    with pytest.raises(DataError, match="The key"):
        write_shards(tmp_path / "data", "x", [(key, members(0))], 1)
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("*.tar"))


def test_keys_that_lead_out_of_a_folder_are_but_names_where_others_wrote_them(tmp_path):
    tar(tmp_path / "a.tar", [("../../x.png", encoded(picture())), ("/abs/x.png", encoded(picture(1)))])
    samples = Shards(str(tmp_path / "a.tar"), label=None, caption=None).load()
    assert samples.keys == ("../../x", "/abs/x")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.tar"]


def test_members_without_extension_belong_to_no_sample(tmp_path):
    tar(tmp_path / "a.tar", [("README", b"hello"), ("d/a.png", encoded(picture())), ("d/.x", b""), ("e.png", b"")])
    shard = scan(tmp_path / "a.tar")
    assert len(shard) == 2 and shard.passed_over == 2 and shard.extensions == {"png": 2} and shard.whole


def test_a_shard_that_the_index_does_not_name(tmp_path, caplog):
    folder = written(tmp_path / "data")
    tar(folder / "00003.tar", [("z.png", encoded(picture())), ("z.cls", b"0"), ("z.txt", b"z")])
    refused(r"00003\.tar is not in .*index\.json.*make_shards\.py index", f"{folder}/{{00000..00003}}.tar")
    assert len(Shards(str(folder)).load()) == 5
    assert "left out, because index.json does not name them: 00003.tar. " in caplog.text


def test_a_brace_without_its_other(tmp_path):
    refused("a brace without its other", f"{tmp_path}/{{000..009.tar")


def test_a_label_beyond_64_bits_is_no_label(tmp_path):
    folder = written(tmp_path / "data", cls=str(2**63).encode())
    assert len(Shards(str(folder), max_bad_fraction=0.5).load()) == 4
    folder = written(tmp_path / "lowest", cls=str(-(2**63)).encode())
    assert Shards(str(folder)).load().label[-1] == -(2**63)


def test_a_thin_picture_that_would_become_huge_is_left_out(tmp_path):
    folder = written(tmp_path / "data", png=encoded(picture(h=1, w=20_000)))
    samples = Shards(str(folder), size=224, max_bad_fraction=0.5).load()
    assert len(samples) == 4 and list(samples.skipped) == [f"{folder}/00002.tar: a picture too large"]
