"""The page of variants says what the gin files say."""

import pytest

from cl import results
from cl.variants import PAGE, REACHED, RESULT, header, page, read, variants


def test_the_page_is_what_the_files_come_to():
    assert PAGE.read_text() == page(variants(), results.rows()), "run python tools/variants.py"


@pytest.mark.parametrize("row", [row for row in results.rows() if row["seed"] == 0], ids=lambda row: row["recipe"])
def test_a_recipes_header_says_what_was_measured(row):
    text = (results.ROOT / "gin" / f"{row['recipe']}.gin").read_text()
    assert text == header(text, row), "run python tools/variants.py"
    assert text.count(RESULT) == 1 and f"kNN {row['knn']:.3f}" in text


@pytest.mark.parametrize(
    ("name", "part", "said"),
    [
        ("byol", "encoder", "Momentum(Siamese, predictor)"),
        ("supcon_queue", "what the queries meet", "Queue(InBatch(all rows))"),
        ("slip", "what the queries meet", "InBatch(the other view); InBatch(all rows)"),
        ("dino", "hooks", "UpdateMomentum, UpdateCentre"),
        ("supcon", "groups", "ByLabel"),
    ],
)
def test_parts_are_read_from_the_wiring(name, part, said):
    assert read(results.ROOT / "gin" / f"{name}.gin").parts[part] == said


@pytest.mark.parametrize(
    ("name", "keeper"),
    [("vicreg", "the batch's statistics"), ("simsiam", "predictor, stop-gradient, whitened projector")],
)
def test_what_keeps_a_variant_from_collapse_is_read_from_its_losses_and_networks(name, keeper):
    assert read(results.ROOT / "gin" / f"{name}.gin").keeper == keeper


def test_lines_are_those_of_the_file_itself_over_the_recipe_it_includes():
    supcon = read(results.ROOT / "gin" / "supcon.gin")
    assert (supcon.over, supcon.lines) == ("simclr", 3)
    assert read(results.ROOT / "gin" / "simclr.gin").over is None


def test_what_was_not_measured_is_left_empty():
    rows = [row for row in results.rows() if row["recipe"] == "supcon"]
    text = page([read(results.ROOT / "gin" / f"{name}.gin") for name in ("simclr", "supcon")], rows)
    lines = {line.split(" | ")[0]: line for line in text.split("## What each reached")[1].splitlines()}
    assert "kNN" in lines["| supcon"] and lines["| simclr"].count("|  ") == len(REACHED)


@pytest.mark.parametrize(("bfloat16", "said"), [(True, "bfloat16"), (False, "float32"), (None, "")])
def test_a_row_says_what_it_was_computed_in_where_that_is_known_and_by_what_code(bfloat16, said):
    row = next(row for row in results.rows() if row["recipe"] == "supcon" and row["seed"] == 0)
    text = page([read(results.ROOT / "gin" / "supcon.gin")], [row | {"bfloat16": bfloat16, "commit": "abcdef0"}])
    assert text.splitlines()[-1].split(" | ")[-3:-1] == [said, "abcdef0"]
