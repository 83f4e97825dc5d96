"""The race of losses at sizes of milliseconds; what it measures is no test's."""

import json
from argparse import ArgumentParser
from dataclasses import replace

import pytest

from cl.bench import loss
from cl.bench.contenders import CASES, FLOOR, LOW, OURS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Races without other libraries, which takes no package and little time; returns the rows of the file."""
    names = (OURS, LOW, "PyTorch", FLOOR)
    ours = {case: replace(each, contenders={n: each.contenders[n] for n in names}) for case, each in CASES.items()}
    monkeypatch.setattr(loss, "CASES", ours)
    monkeypatch.setattr(loss, "SHORTEST", 0.001)
    parser = ArgumentParser()
    loss.add_arguments(parser)

    def rows(*arguments):
        always = ["--threads", "1", "--widths", "8", "--repeats", "3", "--out", str(tmp_path)]
        loss.main(parser.parse_args([*always, *arguments]))
        return json.loads((tmp_path / "loss.json").read_text())

    return rows


def test_every_contender_has_a_row_and_what_is_not_run_anew_keeps_its_own(run, capsys):
    moco = run("--cases", "moco", "--rows", "64")
    assert [row["contender"] for row in moco] == [OURS, LOW, "PyTorch", FLOOR]
    for row in moco:
        low, high = row["interval_95"]
        assert low <= row["times_ours"] <= high and row["seconds"] > 0 and row["extra_bytes"] >= 0
        if row["contender"] == LOW:  # of 8 bits: logits are off by 1 / 128, gradients by that and their own rounding
            assert 0 < row["loss_error"] < 1 / 128 and 0 < row["gradient_error"] < 1 / 16
    both = run("--cases", "simclr", "--rows", "64")
    assert [row for row in both if row["case"] == "moco"] == moco
    again = run("--cases", "simclr", "--rows", "64")
    assert [(row["case"], row["contender"]) for row in again] == [(row["case"], row["contender"]) for row in both]


def test_who_does_not_come_to_an_end_has_failed_alone(monkeypatch):
    def end(child):
        if LOW in child.process.args:
            raise RuntimeError("out of memory")
        return whole(child)

    whole = loss.Child.end
    monkeypatch.setattr(loss.Child, "end", end)
    rows = {row["contender"]: row for row in loss.race("moco", 64, 8, 1, limit=10**9, repeats=1, known={})}
    assert rows[LOW]["failed"] == "out of memory" and rows[FLOOR]["seconds"] > 0


def test_what_would_not_fit_is_not_tried():
    known = {("moco", "PyTorch"): {"rows": 64, "extra_bytes": 10**9}}
    rows = {row["contender"]: row for row in loss.race("moco", 640, 8, 1, limit=5 * 10**9, repeats=1, known=known)}
    assert rows["PyTorch"]["failed"] == "not tried: would need about 10 GB"
    assert rows[OURS]["seconds"] > 0
