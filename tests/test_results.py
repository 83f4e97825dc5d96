"""The table of results: what makes a row valid, and what stands in the table."""

from cl import results


def test_the_fingerprint_is_of_code_and_configuration_not_of_words(tmp_path, monkeypatch):
    (tmp_path / "cl" / "losses").mkdir(parents=True)
    (tmp_path / "gin").mkdir()
    code, config = tmp_path / "cl" / "losses" / "loss.py", tmp_path / "gin" / "simclr.gin"
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results.wiring, "read", lambda files: type("W", (), {"config_str": files[0].read_text}))

    def fingerprint(source: str, binding: str) -> str:
        code.write_text(source)
        config.write_text(binding)
        return results.fingerprint("simclr")

    first = fingerprint('"""Words."""\nx = 1\n', "a.b = 1")
    assert first == fingerprint('"""Other words."""\n\n# a comment\nx = 1\n', "a.b = 1")
    assert first != fingerprint('"""Words."""\nx = 2\n', "a.b = 1")
    assert first != fingerprint('"""Words."""\nx = 1\n', "a.b = 2")


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
