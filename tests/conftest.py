"""Shape annotations run as checks in every test; randomness and threads are fixed."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import config, install_import_hook

install_import_hook("cl", "beartype.beartype")

from cl.views.cached_shards import CachedShards  # noqa: E402, the hook comes first
from cl.views.digits import Digits  # noqa: E402
from cl.views.write_shards import write_shards  # noqa: E402

torch.set_num_threads(1)
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """As users run it: the tests check shapes and types themselves."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def digits_loaded_once() -> Iterator[None]:
    """The built-in pictures, for all runs of a file."""
    load = CachedShards.load
    with pytest.MonkeyPatch.context() as patch:
        once = cache(lambda name, split: load(Digits(split)))
        patch.setattr(CachedShards, "load", lambda self: once(self.name, self.split))
        yield


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"this machine does not mount a small disk: {made.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen noisy pictures of 40 x 48 pixels with a label and a caption, as shards with an index."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 40, 48, 3), generator=generator, dtype=torch.uint8).numpy()
    folder = tmp_path_factory.mktemp("toy") / "shards"
    samples = [
        (f"{i:03d}", {"png": _png(image), "cls": str(i % 4).encode(), "txt": f"noise {i}".encode()})
        for i, image in enumerate(images)
    ]
    write_shards(folder, "toy", samples, per_shard=8)
    return folder


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()
