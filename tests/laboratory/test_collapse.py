"""What is asked of an ablation, and what stands on the page."""

import re

import pytest

from cl import results
from cl.laboratory import collapse as lab
from cl.laboratory.runs import Arm

ROWS = [row for arms in lab.arms().values() for arm in arms for row in lab.ROWS.of(arm)]


README = re.findall(
    r"^\| \[.*\]\(gin/(\S+)\.gin\) \| ([\d.]+)(?: to ([\d.]+))? \| (\d+) \|",
    (results.ROOT / "README.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("line", README, ids=lambda line: line[0])
def test_the_readmes_table_is_what_was_measured(line):
    recipe, low, high, seeds = line
    found = [row["knn"] for row in ROWS if row["recipe"] == recipe]
    assert (low, high or low, int(seeds)) == (f"{min(found):.2f}", f"{max(found):.2f}", len(found))


def test_the_readmes_table_has_every_ablation():
    assert set(lab.ablations()) <= {recipe for recipe, *_ in README}


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


def test_a_run_is_measured_often_and_keeps_its_curves(monkeypatch):
    def run(arm, seed, threads, also):
        assert (arm.recipe, arm.bindings, seed, threads) == ("collapse/byol_no_norm", ["cl.train.steps = 280"], 3, 1)
        assert {"CollapseMonitor.every = 4", "cl.train.evaluate_every = 70"} <= set(also)
        lines = [{"step": 1, "loss": 2.0, "feature_std": None, "collapsed": 0.0}, {"step": 70, "knn": 0.123456}]
        return {"knn": 0.2, "knn_random_init": 0.14}, lines

    monkeypatch.setattr(Arm, "run", run)
    found = lab.run(Arm("collapse/byol_no_norm"), 3, 1)
    assert found["curves"]["knn"] == [(0, 0.14), (70, 0.1235), (280, 0.2)] and not lab.collapsed(found)
    assert found["curves"]["feature_std"] == [(1, None)] and "uniformity" not in found["curves"]


def test_the_page_has_ablations_below_their_twin_and_seeds_together():
    found = [row("collapse/byol_no_norm", 0.1, seen=(9,)), row("byol"), row("byol", 0.8, seed=1, seen=(5,))]
    found.append(row("collapse/byol_no_norm", 0.3, seed=1, seen=(5, 9)))
    table = lab.page(found).split("## The guard")[0]
    lines = [line for line in table.splitlines() if line.startswith("| [")]
    assert [line.split("]")[0] for line in lines] == ["| [byol", "| [byol_no_norm"]
    assert lines[0].endswith("| 0.800 to 0.900 | 0.140 | no | 1 of 2, step 5 of 10 |")
    assert lines[1].endswith("| **1 of 2** | 2 of 2, step 5 to 9 of 10 |")


def test_the_guard_is_judged_on_seeds_that_had_no_part_in_its_thresholds():
    found = [row("byol", seed=0, seen=(5,)), row("byol", seed=7), row("byol", seed=8, seen=(9,))]
    found += [
        row("collapse/byol_no_norm", 0.1, seed, seen) for seed, seen in ((6, (5,)), (7, (9,)), (8, ()), (9, (5, 9)))
    ]
    found += [row("supcon", seed=1)]
    table = lab.page(found).split("## The guard")[1].split("## What")[0]
    lines = [line.split(") |")[1] for line in table.splitlines() if line.startswith("| [")]
    assert lines == [" 2 | 0 | - | - | 1 |", " 3 | 3 | 2 | 5 to 9 | - |"]


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    pictures = tmp_path / "all.png", tmp_path / "byol.png"
    lab.draw([row("collapse/byol_no_norm"), row("byol")], *pictures)
    assert all(picture.read_bytes()[1:4] == b"PNG" for picture in pictures)


def test_the_page_in_docs_is_of_the_rows_in_docs():
    assert lab.PAGE.read_text() == lab.page(ROWS), "run python tools/collapse_lab.py --draw"
    assert {each["recipe"] for each in ROWS} >= set(lab.arms())
