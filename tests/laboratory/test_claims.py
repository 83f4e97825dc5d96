"""What a claim compares, and what is said of it."""

import pytest
import torch

from cl import results, wiring
from cl.laboratory import claims as lab
from cl.laboratory.false_negatives import share_and_mass
from cl.train import Training
from cl.types import Embeddings

ARMS = {name: claim.arms for name, claim in lab.CLAIMS.items()}


def rows(value):
    """Three rows an arm, every figure the value of the arm."""
    figures = {figure for claim in lab.CLAIMS.values() for figure in claim.figures}
    return {
        name: {arm: [dict.fromkeys(figures, value(arm)) | {"seed": seed} for seed in range(3)] for arm in arms}
        for name, arms in ARMS.items()
    }


@pytest.mark.parametrize("name", lab.CLAIMS)
def test_a_claim_compares_arms_that_it_has(name):
    claim = lab.CLAIMS[name]
    for side in [side for pair in claim.above for side in pair]:
        assert {side.arm, side.less or side.arm} <= set(claim.arms) and side.figure in claim.figures
    for arm in claim.arms.values():
        wired = results.wired(arm.recipe, arm.bindings)  # refused if a binding is none, or without effect
        assert wired.value("steps", 0) > 10


@pytest.mark.parametrize(
    ("above", "below", "said"),
    [
        ([0.5, 0.6, 0.7], [0.3, 0.4, 0.4], "**held**"),
        ([0.3, 0.4, 0.4], [0.5, 0.6, 0.7], "**the contrary**"),
        ([0.5, 0.7, 0.7], [0.4, 0.6, 0.6], "held in the mean only"),
        ([0.4, 0.6, 0.6], [0.5, 0.7, 0.7], "did not hold"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "did not hold"),
        ([0.8, 0.9], [0.1, 0.2, 0.3], "too few seeds"),
    ],
)
def test_a_claim_holds_where_the_worst_seed_of_one_is_above_the_best_of_the_other(above, below, said):
    assert lab.verdict(above, below) == said


def test_the_page_says_of_every_comparison_what_came_of_it():
    page = lab.page(rows(lambda arm: {"512 rows, 74 steps": 1.0, "SupCon, 40% wrong": 0.5}.get(arm, 0.0)))
    assert "- knn: 512 rows, 74 steps above 128 rows, 298 steps: **held** (1.000; 0.000)" in page
    assert "- 512 rows, 74 steps: false_mass above false_share: did not hold (1.000; 1.000)" in page
    lost = "SupCon, 40% wrong (less SupCon, 0% wrong) above cross-entropy, 40% wrong (less cross-entropy, 0% wrong)"
    assert f"- knn: {lost}: **held** (0.500; 0.000)" in page
    assert page.count("Runs of older code: 15 of 15.") == 2, "they have no fingerprint"
    for claim in lab.CLAIMS.values():
        assert claim.says in page and all(f"| {arm} | 3 |" in page for arm in claim.arms)


def test_what_an_arm_has_over_another_is_of_equal_seeds():
    rows = {"a": [{"seed": 0, "knn": 0.5}, {"seed": 1, "knn": 0.75}], "b": [{"seed": 1, "knn": 0.25}]}
    assert lab.Side("a", "knn", "b").values(rows) == [0.5] and lab.Side("a", "knn").values(rows) == [0.5, 0.75]
    assert lab.Side("c", "knn").values(rows) == lab.Side("a", "knn", "c").values(rows) == []


def test_what_was_not_run_is_left_out():
    found = {name: {arm: [] for arm in arms} for name, arms in ARMS.items()}
    assert "\n- " not in lab.page(found)


def test_the_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    lab.draw(rows(lambda arm: 0.5), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"claims_{name}.png" for name in lab.CLAIMS}


def test_false_negatives_are_keys_of_other_samples_with_the_querys_label(monkeypatch):
    training: Training = wiring.read([results.ROOT / "gin" / "simclr.gin"], ["MemoryViews.batch = 20"]).build()
    share, mass = share_and_mass(training)
    # Ten digits, nearly alike in number; an untrained network hardly prefers any.
    assert 0.06 < share < 0.14 and share / 2 < mass < share * 2

    class Labels(torch.nn.Module):
        """Puts every sample where its label is."""

        def forward(self, views):
            z = torch.nn.functional.one_hot(views.group % 101, 101).float().repeat(2, 1)
            ids = torch.cat([views.ids(0), views.ids(1)])
            return {"z": Embeddings(z, ids, (0, 1))}

    monkeypatch.setattr(training.objective, "encoder", Labels())
    monkeypatch.setattr(training.objective.terms["info_nce"].loss, "temperature", 0.01)
    again, mass = share_and_mass(training)
    assert again == pytest.approx(share, abs=0.03) and mass > 0.7  # all but those of a label with no other in its batch


def test_the_page_in_docs_is_of_the_rows_in_docs():
    found = {name: {arm: lab.ROWS.of(each) for arm, each in arms.items()} for name, arms in ARMS.items()}
    assert lab.PAGE.read_text() == lab.page(found), "run python tools/collapse_lab.py claims --draw"
    assert all(mine for arms in found.values() for mine in arms.values())
