"""What of DeepSpeed's own settings is taken, and what is refused, by name and before anything starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipes import wired

from cl.engines.deepspeed import DeepSpeedEngine
from cl.errors import ConfigError


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": {"enabled": True}},
        {"bfloat16": {"enabled": True}},
        {"gradient_clipping": 1.0},
        {"gradient_allreduce_op": "sum"},
        {"flops_profiler": {"enabled": True}},
        {"tensor_parallel": {"autotp_size": 2}},
        {"data_types": {"param_dtype": "bf16"}},
        {"activation_checkpointing": {"cpu_checkpointing": True}},
        {"zero_optimization": {"stage": 3}},
        {"zero_optimization": {"compute_grad_norm": False}},
        {"zero_optimization": {"cpu_offload": True}},
        {"zero_optimization": {"leaf_module": {"classes": ["timm.models.resnet.BasicBlock"]}}},
        {"zero_optimization": {"stage3_module_granularity_threshold": 1000}},
    ],
)
def test_settings_that_are_bindings_are_refused(settings):
    with pytest.raises(ValueError, match=r"settings has .* decides"):
        DeepSpeedEngine(settings=settings)


def test_no_parameter_is_kept_whole_at_stage_3_unless_settings_say_so():
    whole = "stage3_param_persistence_threshold"
    assert DeepSpeedEngine(stage=3).config["zero_optimization"][whole] == 0
    own = DeepSpeedEngine(stage=3, settings={"zero_optimization": {whole: 1000}})
    assert own.config["zero_optimization"] == {"stage": 3, whole: 1000}


def test_settings_may_be_a_file(tmp_path):
    file = tmp_path / "ds_config.json"
    for content, message in ((None, "No such file"), ("{", "Expecting"), ("[1]", "has a list in it")):
        if content:
            file.write_text(content)
        with pytest.raises(ValueError, match=message):
            DeepSpeedEngine(settings=str(file))
    for settings in ({"zero_optimization": {"reduce_bucket_size": 1000}}, {"zero_optimization": {"stage": 3}}):
        file.write_text(json.dumps(settings))
        if "stage" in settings["zero_optimization"]:
            with pytest.raises(ValueError, match="which DeepSpeedEngine"):
                DeepSpeedEngine(settings=str(file))
        else:
            assert DeepSpeedEngine(settings=str(file)).config == DeepSpeedEngine(settings=settings).config


def test_settings_that_differ_between_processes_are_refused(monkeypatch):
    engine = DeepSpeedEngine(stage=1)
    monkeypatch.setattr("cl.engines.deepspeed.gather_objects", lambda config: [config, config | {"steps_per_print": 1}])
    training = wired("simclr", {})
    with pytest.raises(ConfigError, match=r"DeepSpeedEngine\.settings differ between processes"):
        engine.start(training.objective, training.optimizer, training.schedule, training.place.device, torch.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"zero_optimisation": {}},
            "'zero_optimisation', which DeepSpeed does not read. Did you mean 'zero_optimization'",
        ),
        ({"zero_optimization": 3}, "must be a dict, got 3"),
        ({"zero_optimization": {"reduce_bucket_sizes": 5}}, "reduce_bucket_sizes: Extra inputs"),
        ({"zero_optimization": {"reduce_bucket_size": "many"}}, "reduce_bucket_size: Input should be a valid integer"),
        ({"communication_data_type": "fp99"}, "refused by DeepSpeed: ValueError: Invalid communication_data_type"),
        ({"aio": 3}, "refused by DeepSpeed: "),
        ({"aio": {"blok_size": 1}}, "'blok_size', which DeepSpeed does not read. Did you mean 'block_size'"),
        ({"data_types": {"grad_acum_dtype": "fp32"}}, "'grad_acum_dtype'.*Did you mean 'grad_accum_dtype'"),
        ({"zero_optimization": {"overlap_com": True}}, "overlap_com: Extra inputs"),
    ],
)
def test_settings_that_deepspeed_does_not_take_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepSpeedEngine(settings=settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"communication_data_type": "fp32"},
        {"comms_logger": {"enabled": False}},
        {"aio": {"block_size": 1 << 20}},
        {"data_types": {"grad_accum_dtype": "fp32"}},
        {"tensorboard": {"enabled": False, "output_path": "logs"}},
    ],
)
def test_others_are_merged_over_those_that_are_made(settings):
    plain = DeepSpeedEngine(stage=2, clip=1.0)
    engine = DeepSpeedEngine(stage=2, clip=1.0, settings=settings | {"zero_optimization": {"reduce_bucket_size": 1000}})
    assert engine.config == plain.config | settings | {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}


@pytest.mark.slow
@pytest.mark.alone
def test_what_deepspeed_refuses_when_it_starts_ends_the_run_with_2(tmp_path):
    small = ["cl.train.steps = 2", "MemoryViews.batch = 16", "cl.train.evaluations = []"]
    params = [*small, "DeepSpeedEngine.settings = {'zero_optimization': {'zenflow': {}}}"]
    files = ["--gin", "gin/simclr.gin", "--gin", "gin/scale/zero1.gin", "--out", str(tmp_path / "run")]
    given = [word for param in params for word in ("--param", param)]
    done = subprocess.run(
        [sys.executable, "tools/train.py", *files, *given],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2 and "ConfigError: DeepSpeed does not start with" in done.stderr
    assert "Traceback" not in done.stderr
