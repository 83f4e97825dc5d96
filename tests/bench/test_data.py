"""The race of views, small: every contender runs, and rows say what they should."""

import argparse
import json
import time

import cv2
import numpy as np
import pytest
import simplejpeg

from cl.bench import data


@pytest.fixture
def few_pixels(monkeypatch):
    """The race of 224 pixels at 16."""
    monkeypatch.setattr(data, "LARGE", data.Case(16, data.LARGE.contenders, data.LARGE.baseline, data.LARGE.ours, 6.0))


@pytest.fixture
def threads():
    """OpenCV's number of threads, given back."""
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def test_every_contender_has_a_row_and_the_files_are_written(few_pixels, threads, tmp_path, capsys):
    data.main(argparse.Namespace(repeats=2, pictures=2, out=tmp_path))
    rows = json.loads((tmp_path / "data.json").read_text())
    assert [(row["size"], row["contender"]) for row in rows] == [
        (case.size, name) for case in (data.LARGE, data.SMALL) for name in case.contenders
    ]
    ran = [row for row in rows if "failed" not in row]
    assert all("lightly" in row["contender"] for row in rows if row not in ran)
    for row in ran:
        low, high = row["interval_95"]
        assert low <= row["times_baseline"] <= high and row["images_per_second"] > 0
    baselines = [row for row in ran if row["contender"] in (data.LARGE.baseline, data.SMALL.baseline)]
    assert [row["times_baseline"] for row in baselines] == [1.0, 1.0]
    assert [row["bar"] for row in ran if "bar" in row] == [6, 20]
    printed = capsys.readouterr().out
    assert all(row["contender"] in printed for row in rows)


def waits(seconds):
    return lambda given, size: lambda number: time.sleep(seconds)


def test_a_speed_is_told_in_the_baselines():
    case = data.Case(8, {"slow": waits(0.03), "quick": waits(0.003)}, baseline="slow", ours="quick", bar=2.0)
    slow, quick = data.race(case, [0], repeats=3)
    assert quick["met"] and quick["times_baseline"] > 2 and quick["images_per_second"] > slow["images_per_second"]


def test_a_contender_that_is_not_installed_is_told():
    def build(given, size):
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    case = data.Case(8, {"one": waits(0.001), "other": build}, baseline="one", ours="one", bar=1.0)
    one, other = data.race(case, [0], repeats=2)
    assert other["failed"] == "not installed: nothing" and one["repeats"] == 2


def test_pictures_are_the_same_every_time_and_as_large_as_photographs():
    image, again = data.pictures(1, 375, 500)[0], data.pictures(1, 375, 500)[0]
    assert np.array_equal(image, again) and image.shape == (375, 500, 3)
    assert 25_000 < len(simplejpeg.encode_jpeg(image, quality=90)) < 40_000
