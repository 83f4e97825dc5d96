"""Every file of gin/: a recipe parses, builds, has no dead binding, round-trips and steps; the rest are fragments."""

import math
import re
from pathlib import Path

import extras
import pytest
import torch
from recipes import toy
from safetensors.torch import save_file

from cl import rules, wiring
from cl.components import Step
from cl.encoders.small_resnet import small_resnet
from cl.engines.deepspeed import DeepSpeedEngine
from cl.errors import ConfigError
from cl.run_folder import RunFolder
from cl.views.shards import Shards

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "gin").rglob("*.gin"))
RECIPES = [
    path
    for path in FILES
    if path.read_text()[:10] != "# Fragment" and "\n#   python tools/train.py" in path.read_text()
]
FRAGMENTS = [path for path in FILES if path not in RECIPES]
OVERLAYS = {"folder": "simclr", "shards": "moco_v2", "pairs": "clip"}
SMALL = ["MemoryViews.batch = 64"]  # two views of them are what whitening groups of 64 asks for


def given(path: Path) -> Path:
    """A recipe, or a skip where packages of an extra that it needs are not installed."""
    if path.stem.startswith("openmoji"):
        extras.openmoji()
    return path


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "gin"))


@pytest.fixture(scope="module")
def toy_trunk(tmp_path_factory) -> Path:
    """The built-in trunk of a run that has learned nothing."""
    path = tmp_path_factory.mktemp("trunk") / "trunk.image.safetensors"
    save_file(small_resnet((32, 64, 128, 128), stride=2).state_dict(), path)
    return path


@pytest.mark.usefixtures("digits_loaded_once")
@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_takes_a_step_and_round_trips(path: Path, toy_shards: Path, toy_trunk: Path, tmp_path: Path):
    params = toy(path, toy_shards, toy_trunk) or SMALL
    torch.manual_seed(0)
    config = wiring.read([given(path)], params)
    training = config.build()
    rules.check(training)
    folder = RunFolder(tmp_path / "run", resume=False)

    for text in (config.config_str(), config.operative_str()):
        folder.write("again.gin", text.encode())
        again = wiring.read([folder.path / "again.gin"])
        again.build()
        assert again.tree().split() == config.tree().split() or again.operative_str() == config.operative_str()

    training.start()
    before = {key: value.clone() for key, value in training.objective.state_dict().items()}
    batches = training.views.iterate(training.place)
    # Three steps: the first may meet an empty queue, and blocks that start as the identity pass nothing on at first.
    for index in range(3):
        output, *_ = training.step(Step(index, 3), batches, folder)
        assert math.isfinite(output.loss)
    after = training.objective.state_dict()
    trained = {key for key, parameter in training.objective.named_parameters() if parameter.requires_grad}
    still = {key for key in trained if torch.equal(before[key], after[key])}
    groups = training.engine.optimizer.param_groups
    # What a rule is to keep stays where it was, and nothing else.
    assert still == {key for group in groups if group["rule"].rate == 0 for key in group["names"]}


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_header_says_what_it_is_what_must_be_set_and_how_to_launch_it(path: Path):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert f"--gin gin/{name(path)}" in header
    assert re.search(r"Must be set|python tools/train.py .*--param", header)
    if path.parent.name == "paper":
        assert "Not run here" in header


@pytest.mark.parametrize("path", FRAGMENTS, ids=name)
def test_fragment_is_used(path: Path):
    assert (
        path.stem in OVERLAYS
        or path.parent.name == "scale"
        or any(f"{path.name}'" in other.read_text() for other in FILES if other != path)
    )


@pytest.fixture(scope="module")
def own_data(tmp_path_factory, toy_shards):
    """The same pictures as a folder, as shards, and as a table."""
    root = tmp_path_factory.mktemp("own")
    records = Shards(str(toy_shards)).records()
    rows = ["image,caption"]
    for record in (records[i] for i in range(len(records))):
        (root / f"{record.key}.png").write_bytes(record.members["png"])
        rows.append(f"{record.key}.png,{record.members['txt'].decode()}")
    (root / "pairs.csv").write_text("\n".join(rows))
    return {"folder": root, "shards": toy_shards, "pairs": root / "pairs.csv"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_recipe_trains_on_data_of_ones_own(name, own_data, tmp_path):
    files = [ROOT / "gin" / f"{OVERLAYS[name]}.gin", ROOT / "gin" / "data" / f"{name}.gin"]
    with pytest.raises(ConfigError, match=name.upper()):
        wiring.read(files)
    sizes = ["StreamViews.batch = 8", "FusedAugment.size = 32", "StreamViews.workers = 1", "cl.train.steps = 3"]
    config = wiring.read(files, [f"{name.upper()} = '{own_data[name]}'", *sizes, "cl.train.precision = 'float32'"])
    training = config.build()
    rules.check(training)
    summary = training.run(RunFolder(tmp_path / "run", resume=False))
    assert math.isfinite(summary["loss"]) and summary["skipped"] == 0 and 0 <= summary["data_wait"] <= 1


SCALES = [path for path in FRAGMENTS if path.parent.name == "scale" and path.stem != "hosts"]


@pytest.mark.parametrize("path", SCALES, ids=name)
def test_a_scale_takes_the_place_of_the_engine(path: Path):
    training = wiring.read([ROOT / "gin" / "moco_v2.gin", path]).build()
    rules.check(training)
    engine = training.engine
    assert isinstance(engine, DeepSpeedEngine) and path.stem.startswith(f"zero{engine.stage}")
    assert engine.sharded == (engine.stage > 0) and engine.offload == path.stem.endswith("offload")
    lars = wiring.read([ROOT / "gin" / "moco_v2.gin", path], ["cl.train.optimizer = @LARS()", "LARS.lr = 1.0"]).build()
    if engine.stage == 0:
        rules.check(lars)
    else:
        with pytest.raises(ConfigError, match=r"LARS .* DeepSpeedEngine.stage = 0"):
            rules.check(lars)


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "paper"], ids=name)
def test_a_papers_recipe_goes_with_every_stage_but_for_lars(path: Path, toy_shards: Path, toy_trunk: Path):
    for scale in SCALES:
        training = wiring.read([path, scale], toy(path, toy_shards, toy_trunk)).build()
        if training.optimizer.by_layer and training.engine.stage:
            with pytest.raises(ConfigError, match=r"LARS .* DeepSpeedEngine.stage = 0"):
                rules.check(training)
        else:
            rules.check(training)


def test_the_number_of_processes_is_asked_for_and_held():
    files = [ROOT / "gin" / "simclr.gin", ROOT / "gin" / "scale" / "zero1.gin", ROOT / "gin" / "scale" / "hosts.gin"]
    with pytest.raises(ConfigError, match="PROCESSES"):
        wiring.read(files)
    assert wiring.read(files, ["PROCESSES = 16"]).value("processes", None) == 16


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "paper"], ids=name)
def test_required_values_are_named_until_they_are_set(path: Path):
    with pytest.raises(ConfigError, match="TRAIN"):
        wiring.read([path])


@pytest.mark.parametrize("path", [path for path in RECIPES if path.parent.name == "gin"], ids=name)
def test_a_variant_of_a_recipe_is_a_short_diff(path: Path):
    own = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    over = {other.name for other in RECIPES} & set(re.findall(r"include '(\w+\.gin)'", path.read_text()))
    assert not over or len(own) <= 25
