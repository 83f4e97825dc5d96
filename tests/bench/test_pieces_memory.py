"""What a batch in pieces has in memory: one piece, the pixels, and rows."""

from pathlib import Path

import pytest

from cl.bench import pieces

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.alone
def test_4096_samples_in_pieces_of_64_take_little_more_than_64():
    """The whole at once would take 64 times the activations of a piece."""
    found = pieces.compare(ROOT / "gin" / "simclr.gin", 4096, 64, ["cl.train.precision = 'float32'"])
    one, whole = found["one_piece"], found["whole_in_pieces"]
    # Embeddings, their gradients, and as much again for what the loss makes of them.
    allowed = whole["pixels_mb"] + 4 * whole["rows_mb"]
    assert whole["pixels_mb"] > 10 and whole["rows_mb"] > 4
    assert whole["peak_mb"] - one["peak_mb"] <= allowed < one["peak_mb"]
