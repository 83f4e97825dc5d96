"""Configurations in files."""

from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import pytest
from bicycle import BUILT


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    BUILT.clear()
    yield
    gin.clear_config()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str, name: str = "a.gin") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return write
