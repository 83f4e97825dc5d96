"""Shape annotations run as checks in every test; randomness and threads are fixed."""

import os

import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook("cl", "beartype.beartype")

torch.set_num_threads(1)
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
