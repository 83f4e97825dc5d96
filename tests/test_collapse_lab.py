"""The laboratory's bookkeeping, and what was seen in it."""

import json

import pytest

from cl import collapse_lab as lab
from cl import results

ROWS = lab.rows()


def row(recipe, knn=0.9, seed=0, seen=()):
    names = [name for name in lab.CURVES if name not in ("collapsed", "knn")]
    curves = {name: [[1, 0.5], [9, 0.25]] for name in names}
    curves |= {"collapsed": [[step, float(step in seen)] for step in (1, 5, 9)], "knn": [[0, 0.14], [10, knn]]}
    return {"recipe": recipe, "seed": seed, "steps": 10, "knn": knn, "knn_random_init": 0.14, "curves": curves}


def test_every_ablation_is_a_few_lines_over_a_recipe():
    twins = lab.ablations()
    assert twins["collapse/byol_no_norm_no_predictor"] == "byol" and len(twins) >= 10
    for name, twin in twins.items():
        lines = (results.ROOT / "gin" / f"{name}.gin").read_text().splitlines()
        assert 1 <= sum(not line.startswith(("#", "include")) for line in lines if line) <= 6, name
        assert results.fingerprint(name) != results.fingerprint(twin)


@pytest.mark.parametrize(("knn", "expected"), [(0.139, True), (0.14, True), (0.141, False)])
def test_collapsed_is_not_above_the_random_start(knn, expected):
    assert lab.collapsed(row("byol", knn)) == expected


def test_noticed_is_the_first_step_of_which_it_is_said():
    assert lab.noticed(row("byol")) is None
    assert lab.noticed(row("byol", seen=(5, 9))) == 5


def test_a_run_is_short_measured_often_and_kept_with_its_curves(tmp_path, monkeypatch):
    def train(recipe, seed, out, params):
        assert (recipe, seed) == ("collapse/byol_no_norm", 3)
        assert "cl.train.steps = 280" in params and "CollapseMonitor.every = 4" in params
        out.mkdir()
        lines = [{"step": 1, "loss": 2.0, "feature_std": None, "collapsed": 0.0}, {"step": 70, "knn": 0.123456}]
        (out / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        names = ("seconds", "loss", "feature_std", "effective_rank", "knn_raw_pixels")
        summary = dict.fromkeys(names, 2.5) | {"knn": 0.2, "knn_random_init": 0.14}
        (out / "summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(results, "train", train)
    found = lab.run("collapse/byol_no_norm", 3)
    assert found["curves"]["knn"] == [(0, 0.14), (70, 0.1235), (280, 0.2)] and not lab.collapsed(found)
    assert found["curves"]["feature_std"] == [(1, None)] and found["fingerprint"]
    monkeypatch.setattr(lab, "ROWS", tmp_path / "rows.jsonl")
    for _ in range(2):
        lab.keep(found)
    assert [each["seed"] for each in lab.rows()] == [3]


def test_the_page_has_ablations_below_their_twin_and_seeds_side_by_side():
    found = [row("collapse/byol_no_norm", 0.1, seen=(9,)), row("byol"), row("byol", seed=1)]
    lines = [line for line in lab.page(found).splitlines() if line.startswith("| [")]
    assert [line.split("]")[0] for line in lines] == ["| [byol", "| [byol", "| [byol_no_norm"]
    assert lines[2].endswith("| **yes** | step 9 of 10 |") and lines[0].endswith("| no | - |")


@pytest.mark.parametrize(
    ("words", "installed", "said"),
    [
        (["--only", "byol", "bhol"], True, "there is no bhol; there are byol"),
        ([], False, "need matplotlib: pip install"),
    ],
)
def test_what_cannot_be_run_or_drawn_is_said_before_any_run(words, installed, said, monkeypatch, capsys):
    monkeypatch.setattr(lab, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(lab, "run", lambda name, seed: pytest.fail("it was run"))
    with pytest.raises(SystemExit) as error:
        lab.main(words)
    assert error.value.code == 2 and said in capsys.readouterr().err


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    pictures = tmp_path / "all.png", tmp_path / "byol.png"
    lab.draw([row("collapse/byol_no_norm"), row("byol")], *pictures)
    assert all(picture.read_bytes()[1:4] == b"PNG" for picture in pictures)


def test_the_page_in_docs_is_of_the_rows_in_docs():
    assert lab.PAGE.read_text() == lab.page(ROWS), "run python tools/collapse_lab.py --draw"
    assert {each["recipe"] for each in ROWS} >= {*lab.ablations(), *lab.ablations().values()}
