import hashlib
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl.errors import DataError
from cl.evaluation.knn import knn_accuracy
from cl.views import digits as module
from cl.views import render
from cl.views.digits import Digits, write_digits
from cl.views.render import SPLITS, Scenes, scenes, split_by_scan
from cl.views.samples import DataSet

ROOT = Path(__file__).parents[2]
FROZEN = "9774493af5320d249d6549f25e02e59028713b9d26f5be70e007f4f28cf66baf"


@pytest.fixture(scope="module")
def rendered():
    return {split: scenes(split) for split in SPLITS}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    Digits("train", str(folder)).records()
    return folder


def few(split):
    """A data set of two pictures a split, for what is about files only."""
    images = np.zeros((2, 3, 4, 4), np.uint8)
    return Scenes(images, np.arange(2), ("a", "b"), (f"{split}-0", f"{split}-1"), ({}, {}))


def test_is_frozen(rendered):
    # Every figure that was ever quoted stands on these bytes. If this fails the change makes a `digits-v2`.
    digest = hashlib.sha256()
    for split in SPLITS:
        part = rendered[split]
        digest.update(part.images.tobytes())
        digest.update(part.digit.astype("<i8").tobytes())
        digest.update("\n".join(part.captions).encode())
        digest.update("\n".join(part.keys).encode())
    assert digest.hexdigest() == FROZEN


def test_splits_share_no_scan_and_hold_every_digit(rendered):
    scans = {split: {key[:4] for key in rendered[split].keys} for split in SPLITS}
    assert {split: len(names) for split, names in scans.items()} == {"train": 1197, "validation": 300, "test": 300}
    assert len(set.union(*scans.values())) == 1797
    for split in ("validation", "test"):
        assert set(Counter(rendered[split].digit.tolist()).values()) == {30 * render.RENDERINGS}


@given(st.lists(st.integers(0, 9), min_size=700, max_size=800))
def test_any_scans_are_split_without_rest(digit):
    parts = split_by_scan(np.array(digit, np.int64))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(digit)))


def test_is_hard_for_raw_pixels(rendered):
    bank, held_out = rendered["train"], rendered["test"]
    raw = [torch.from_numpy(part.images).flatten(1).float() / 255 for part in (bank, held_out)]
    labels = [torch.from_numpy(part.digit) for part in (bank, held_out)]
    assert 0.4 < knn_accuracy(raw[0], labels[0], raw[1], labels[1]) < 0.6


def test_is_hard_for_a_random_network(rendered):
    from cl.encoders.small_resnet import small_resnet

    torch.manual_seed(0)
    network = small_resnet().eval()

    def features(part, rows):
        images = torch.from_numpy(part.images[rows]).float() / 255
        with torch.no_grad():
            return torch.cat([network(some) for some in images.split(256)]), torch.from_numpy(part.digit[rows])

    bank, labels = features(rendered["train"], slice(0, None, render.RENDERINGS))
    assert knn_accuracy(bank, labels, *features(rendered["test"], slice(0, None, render.RENDERINGS))) < 0.35


def test_captions_are_true(rendered):
    part = rendered["validation"]
    for i, fact in enumerate(part.facts):
        caption = part.captions[i]
        assert render.DIGITS[part.digit[i]] == fact["digit"]
        assert all(fact[name] in caption for name in ("digit", "size", "ink", "ground", "place"))
        x, y = fact["middle"]
        half = fact["pixels"] / 2
        assert half <= x + 0.01 and x + half <= 32.01 and half <= y + 0.01 and y + half <= 32.01
        assert ("left" in fact["place"]) == (x <= 12.8) and ("bottom" in fact["place"]) == (y > 19.2)
        low, high = {"small": (17, 20), "medium-sized": (20, 23), "large": (23, 26)}[fact["size"]]
        assert low - 0.01 <= fact["pixels"] <= high + 0.01


def test_captions_name_the_colours_seen(rendered):
    # The named hue against the hue of the brightest pixels (the ink) and of the border's (the ground).
    part = rendered["validation"]
    for i in range(0, len(part.keys), 7):
        pixels = part.images[i].reshape(3, -1).T.astype(float)
        luma = pixels @ [0.299, 0.587, 0.114]
        ink, ground = pixels[luma.argsort()[-5:]].mean(0), np.median(pixels[luma <= np.median(luma)], 0)
        for colour, name, names in ((ink, "ink", render.INKS), (ground, "ground", render.GROUNDS)):
            low, high = render.HUES[names.index(part.facts[i][name])]
            middle, reach = (low + high) / 2, (high - low) / 2 + 15
            assert abs((_hue(colour) - middle + 180) % 360 - 180) < reach, (part.keys[i], name)


def _hue(colour):
    red, green, blue = colour
    return np.degrees(np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue))


def test_the_shards_hold_exactly_what_was_rendered(rendered, cache):
    for split in SPLITS:
        samples, part = Digits(split, str(cache)).load(), rendered[split]
        assert np.array_equal(samples.images.numpy(), part.images)
        assert np.array_equal(samples.label.numpy(), part.digit)
        assert samples.captions == tuple((text,) for text in part.captions) and samples.keys == part.keys
        assert len(samples.sample.unique()) == len(samples) and samples.sample.min() >= 0


def test_is_a_data_set_and_reads_in_chunks(cache):
    data = Digits("test", str(cache))
    assert isinstance(data, DataSet) and data.provides == {"labels", "captions"}
    assert [len(part) for part in data.read(1000)] == [1000, 1000, 400]
    assert data.decoded(data.records()[0]).key == data.load().keys[0]


def test_the_constructor_makes_nothing(tmp_path):
    Digits("train", str(tmp_path / "cache"))
    assert not list(tmp_path.iterdir())


def test_refuses_an_unknown_split():
    with pytest.raises(Exception, match=r"train.*validation.*test"):  # the annotations' checker may come first
        Digits("valid")  # type: ignore[arg-type]


def test_the_default_cache_is_the_users(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "scenes", few)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.INFO):
        assert Digits("train").load().keys == ("train-0", "train-1")
        assert Digits("test").load().keys == ("test-0", "test-1")
    assert [record.message for record in caplog.records] == [f"Making digits-v1 in {tmp_path}/cl, once."]
    assert [path.name for path in (tmp_path / "cl").iterdir()] == ["digits-v1"]


def test_equal_pictures_make_equal_files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "scenes", few)
    for name in ("one", "other"):
        write_digits(tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 9
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)


def test_several_may_make_them_at_once(tmp_path, monkeypatch):
    together = threading.Barrier(4)

    def slow(split):
        if split == "train":
            together.wait(60)  # all four have begun before any ends
        return few(split)

    monkeypatch.setattr(module, "scenes", slow)
    lengths: list[int] = []
    threads = [
        threading.Thread(target=lambda: lengths.append(len(Digits("test", str(tmp_path)).load()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [2] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["digits-v1"]


def test_what_was_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def full(split):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "scenes", full)
    with pytest.raises(DataError, match=r"(?s)No space left on device.*Digits\.cache"):
        Digits("train", str(tmp_path)).load()
    assert not list(tmp_path.iterdir())


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/cache"):
        Digits("train", str(tmp_path / "file" / "cache")).load()


def make_shards(*arguments):
    command = [sys.executable, "tools/make_shards.py", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


def test_the_tool_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "mine").write_text("")
    done = make_shards("digits", tmp_path)
    assert done.returncode == 5 and str(tmp_path) in done.stderr and "not empty" in done.stderr
    assert "Traceback" not in done.stderr and [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_tool_writes_what_the_cache_holds(tmp_path, cache):
    done = make_shards("digits", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for split in SPLITS:
        index = "index.json"
        assert (tmp_path / "out" / split / index).read_bytes() == (cache / "digits-v1" / split / index).read_bytes()
