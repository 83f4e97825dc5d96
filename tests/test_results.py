"""The table of results: what makes a row valid, and what stands in the table."""

import json

import pytest

from cl import results


@pytest.fixture
def fingerprint(tmp_path, monkeypatch):
    """The fingerprint of a recipe of one loss, as files that are given as path and text make it."""
    monkeypatch.setattr(results, "ROOT", tmp_path)

    class Wired(results.wiring.Wiring):
        def __init__(self, files, params):
            self.config_str = files[0].read_text

        def modules(self):
            return {"cl.losses.loss", "torch.nn"}

    monkeypatch.setattr(results.wiring, "read", Wired)

    def after(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path = path.with_suffix(".gin" if path.parent.name == "gin" else ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return results.fingerprint("simclr")

    return after


def test_the_fingerprint_is_of_code_and_configuration_not_of_words(fingerprint):
    first = fingerprint(gin__simclr="a.b = 1", cl__losses__loss='"""Words."""\nx = 1\n')
    assert first == fingerprint(cl__losses__loss='"""Other words."""\n\n# a comment\nx = 1\n')
    assert first != fingerprint(gin__simclr="a.b = 2")
    assert first == fingerprint(gin__simclr="a.b = 1")
    assert first != fingerprint(cl__losses__loss='"""Words."""\nx = 2\n')


def test_the_fingerprint_is_of_what_the_components_import_and_of_nothing_else(fingerprint):
    source = "from cl.losses import tiles\nimport cl.errors\nfrom cl.views.random import uniforms\n"
    files = {"gin__simclr": "a.b = 1", "cl__losses__loss": source, "cl__losses__tiles": "import cl.types\n"}
    first = fingerprint(**files, cl__views__random="", cl__types="", cl__errors="", cl__losses__other="")
    for same in ("cl__errors", "cl__losses__other"):
        assert first == fingerprint(**{same: "x = 1\n"})
    for other in ("cl__losses__tiles", "cl__views__random", "cl__types"):
        changed = fingerprint(**{other: "import cl.types\nx = 1\n"})
        assert changed != first
        first = changed


def test_the_table_quotes_the_worst_seed():
    rows = [
        {
            "recipe": "simclr",
            "seed": seed,
            "knn": knn,
            "knn_raw_pixels": 0.5,
            "knn_random_init": 0.1 + seed,
            "wall_seconds": 100 + seed,
            "images_per_second": 900.0 - seed,
        }
        for seed, knn in enumerate((0.93, 0.91, 0.92))
    ]
    *_, row = results.table(rows).splitlines()
    assert "kNN **0.910** | 0.930, 0.910, 0.920 | 0.500 | 2.100 | 102 | 898" in row


@pytest.mark.parametrize("recipe", ["simclr", "lit"])
def test_a_row_says_what_its_run_came_to_and_in_what_it_was_computed(recipe, monkeypatch):
    trained = []

    def train(name, seed, out, params):
        out.mkdir()
        (out / "summary.json").write_text(json.dumps({"knn": 0.123456, "skipped": 0}))
        (out / "environment.json").write_text(json.dumps({"bfloat16": True}))
        trained.append((name, seed, [param.split(" = ")[0] for param in params]))

    monkeypatch.setattr(results, "train", train)
    row = results.measure(recipe, 3)
    assert (row["recipe"], row["seed"], row["knn"], row["skipped"], row["bfloat16"]) == (recipe, 3, 0.1235, 0, True)
    assert row["fingerprint"] == results.fingerprint(recipe)
    assert trained == {"simclr": [("simclr", 3, [])], "lit": [("simclr", 3, []), ("lit", 3, ["TRUNK"])]}[recipe]
