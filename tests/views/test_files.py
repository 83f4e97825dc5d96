"""Pictures in folders and tables: the samples, and so the views, are those of shards made of them."""

import csv
import os
import sys
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from tiny import Noise

from cl.components import Place
from cl.errors import DataError
from cl.make_shards import main
from cl.views.folder import Folder
from cl.views.groups import BySample
from cl.views.pairs import Pairs
from cl.views.records import Source
from cl.views.reference_augment import ReferenceAugment
from cl.views.samples import DataSet
from cl.views.shards import Shards
from cl.views.stream import StreamViews
from cl.views.text import Captions

SIDE = 12


def picture(path, seed=0, side=SIDE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def photos(tmp_path):
    names = ["cat/b.png", "cat/a.JPG", "dog/deep/x.y.png", "dog/1.webp", "ant/0.png"]
    for seed, name in enumerate(names):
        picture(tmp_path / "photos" / name, seed)
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("no picture")
    picture(tmp_path / "photos" / ".hidden" / "h.png")
    (tmp_path / "photos" / "cat" / "._a.png").write_bytes(b"of another system")
    return tmp_path / "photos"


def table(path, rows, columns=("image", "caption", "label"), **options):
    with path.open("w", newline="", **options) as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        writer.writerows(rows)
    return path


ROWS = [
    ("cat/b.png", "a cat, sitting", "cat"),
    ("dog/1.webp", "ein Hund", "dog"),
    ("cat/b.png", 'a "cat"', "cat"),
    ("ant/0.png", "an ant\nin two lines", "ant"),
]


def same_views(one, other, text):
    second = Captions(lambda texts: torch.tensor([[len(text)] for text in texts])) if text else ReferenceAugment(8)
    made = (StreamViews(data, 2, [ReferenceAugment(8), second], BySample(), 0) for data in (one, other))
    a, b = (list(islice(each.iterate(Place(seed=2)), 5)) for each in made)
    for left, right in zip(a, b, strict=True):
        assert left.keys == right.keys and torch.equal(left.group, right.group)
        assert all(torch.equal(x, y) for x, y in zip(left.made().crops, right.made().crops, strict=True))


def test_a_folder(photos):
    data = Folder(str(photos), label=True)
    assert isinstance(data, Source) and isinstance(data, DataSet) and data.provides == {"labels"}
    samples = data.load()
    assert samples.keys == ("ant/0", "cat/a", "cat/b", "dog/1", "dog/deep/x_y")
    assert samples.label.tolist() == [0, 1, 1, 2, 2] and data.classes() == ("ant", "cat", "dog")
    assert Folder(str(photos)).load().label.tolist() == [-1] * 5 and Folder(str(photos)).provides == set()
    assert not set(samples.sample.tolist()) & set(Folder(str(photos), name="other").load().sample.tolist())


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_shards_of_a_folder_give_the_same_views(photos, tmp_path, capsys, label, workers):
    arguments = ["folder", str(photos), str(tmp_path / "out"), "--per-shard", "2", "--workers", workers]
    assert main(arguments + ["--label"] * label) == 0
    assert "5 samples in 3 shards" in capsys.readouterr().out
    shards = Shards(str(tmp_path / "out"), label="cls" if label else None, caption=None)
    same_views(Folder(str(photos), label), shards, text=False)
    assert shards.load().label.tolist() == Folder(str(photos), label).load().label.tolist()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("00000.tar", "00001.tar", "00002.tar", "index.json", "offsets.npy")
    }


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_shards_of_pairs_give_the_same_views(photos, tmp_path, capsys, ending):
    path = photos / f"pairs.{ending}"
    if ending == "parquet":
        import pyarrow
        from pyarrow import parquet

        columns = dict(zip(("image", "caption", "label"), map(list, zip(*ROWS, strict=True)), strict=True))
        parquet.write_table(pyarrow.table(columns), path)
    else:
        table(path, ROWS, encoding="utf-8")
    data = Pairs(str(path), label="label")
    assert isinstance(data, Source) and data.provides == {"labels", "captions"}
    samples = data.load()
    assert samples.keys == ("cat/b", "dog/1", "ant/0") and samples.label.tolist() == [1, 2, 0]
    assert samples.captions == (("a cat, sitting", 'a "cat"'), ("ein Hund",), ("an ant\nin two lines",))
    out = tmp_path / "out"
    assert main(["pairs", str(path), str(out), "--label", "label", "--per-shard", "2"]) == 0
    assert Shards(str(out)).load().captions == samples.captions
    same_views(data, Shards(str(out)), text=True)


def test_pairs_that_cannot_be_used_are_counted(photos):
    path = photos / "pairs.csv"
    with path.open("wb") as file:
        file.write(b"image,caption\ncat/b.png,fine\ndog/1.webp,\xff\xfe\nant/0.png,  \ngone.png,text\ncat/a.JPG,fine\n")
    samples = Pairs(str(path), max_bad_fraction=0.6).load()
    assert samples.keys == ("cat/b", "cat/a")
    assert samples.skipped == {
        f"{path}: a caption that is not UTF-8": 1,
        f"{path}: an empty caption": 1,
        f"{path}: no picture": 1,
    }
    with pytest.raises(DataError, match="more than max_bad_fraction"):
        Pairs(str(path)).load()


def test_paths_out_of_the_tables_folder_have_numbers_as_keys(photos, tmp_path):
    outside = picture(tmp_path / "other" / "o.png")
    path = table(photos / "pairs.csv", [(str(outside), "a"), ("../other/o.png", "b")], ("image", "caption"))
    assert Pairs(str(path)).load().keys == ("00000000", "00000001")


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda photos: Folder(str(photos / "nowhere")), r"There is no folder .*nowhere.*Folder\.path"),
        (lambda photos: Folder(str(photos / "cat" / "empty")), "no folder"),
        (lambda photos: Folder(str(photos / "cat"), label=True), r"a\.JPG lies in no folder.*Folder\.label = False"),
        (lambda photos: Pairs(str(photos / "gone.csv")), r"There is no file .*Pairs\.path"),
        (lambda photos: Pairs(str(photos / "cat" / "notes.txt")), r"ends in \.csv, \.tsv or \.parquet"),
        (
            lambda photos: Pairs(str(table(photos / "p.csv", [], ("filepath", "title")))),
            "no column 'image'; it has filepath, title",
        ),
        (lambda photos: Pairs(str(table(photos / "p.csv", []))), r"p\.csv has no pictures"),
        (
            lambda photos: Pairs(
                str(table(photos / "p.csv", [("a.png", "x", "1"), ("a.png", "y", "2")])), label="label"
            ),
            "'a.png' has two labels",
        ),
        (
            lambda photos: Pairs(str(table(photos / "p.csv", [("a.png", "x", ""), ("a.jpg", "y", "")]))),
            "would both be the sample 'a'",
        ),
        (
            lambda photos: Pairs(str(written(photos / "p.tsv", 'image\tcaption\na.png\t"open\nb.png\tx\n'))),
            r"p\.tsv, line 3: unexpected end of data.*ends with one",
        ),
        (lambda photos: Pairs(str(written(photos / "p.parquet", "PAR1 no PAR1"))), "cannot be read as parquet"),
        (lambda photos: linked(photos, "cat/up", photos), r"cat/up is .*photos once more, by a link"),
        (lambda photos: linked(photos, "zoo", photos / "cat"), r"(zoo is .*cat|cat is .*zoo) once more, by a link"),
    ],
    ids=range(13),
)
def test_what_is_wrong_is_named(photos, make, match):
    with pytest.raises(DataError, match=match):
        make(photos).load()


def written(path, text):
    path.write_text(text)
    return path


def linked(photos, name, to):
    (photos / name).symlink_to(to)
    return Folder(str(photos))


def test_links_to_folders_are_followed(photos, tmp_path):
    picture(tmp_path / "elsewhere" / "e.png")
    assert linked(photos, "bird", tmp_path / "elsewhere").classes() == ("ant", "bird", "cat", "dog")


def test_a_folder_that_cannot_be_read_is_named(photos, monkeypatch):
    """Made so by hand, as root may read everything."""

    def walk(root, followlinks, onerror):
        onerror(PermissionError(13, "Permission denied", str(photos / "dog")))

    monkeypatch.setattr("cl.views.folder.os.walk", walk)
    with pytest.raises(DataError, match=r"dog cannot be read: Permission denied"):
        Folder(str(photos)).load()


def test_a_name_that_is_not_utf_8(photos):
    name = os.fsdecode(b"cat/caf\xe9.png")
    (photos / "cat/b.png").rename(photos / name)
    assert name.removesuffix(".png") in Folder(str(photos)).load().keys


@pytest.mark.parametrize("labels, expected", [((0, "", 11, -1), (0, 11, -1)), (("a", "", "c", "b"), (0, 2, 1))])
def test_a_row_without_label_is_left_out_and_renumbers_nothing(photos, labels, expected):
    names = ("cat/b.png", "cat/a.JPG", "dog/1.webp", "ant/0.png")
    path = table(photos / "p.csv", [(name, "text", label) for name, label in zip(names, labels, strict=True)])
    samples = Pairs(str(path), label="label", max_bad_fraction=0.5).load()
    assert tuple(samples.label.tolist()) == expected and samples.skipped == {f"{path}: no label": 1}


def test_rows_that_name_no_picture_are_counted_one_by_one(photos):
    path = table(
        photos / "p.csv", [("cat/b.png", "a"), ("", "b"), ("", "c"), ("dog/1.webp", "d")], ("image", "caption")
    )
    assert Pairs(str(path), max_bad_fraction=0.5).load().skipped == {f"{path}: no picture": 2}


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        Pairs(str(tmp_path / "a.parquet")).load()


def test_training_straight_from_a_folder_in_memory(photos):
    from cl.views.memory import MemoryViews

    views = MemoryViews(Folder(str(photos), label=True), 4, [Noise(), Noise()], BySample())
    assert next(views.iterate(Place())).made().crops[0].shape == (4, 3, SIDE, SIDE)
