"""A mix that somebody asks for is a gin file of ten lines, which runs or is refused by name."""

import math
from pathlib import Path

import pytest
import torch

from cl import rules, wiring
from cl.components import Step
from cl.errors import ConfigError
from cl.run_folder import RunFolder

GIN = Path(__file__).parents[2] / "gin"
RUNS = {
    "DCL with a queue and a predictor": """
        include 'moco_v2.gin'
        Term.loss = @DecoupledInfoNCE()
        DecoupledInfoNCE.temperature = 0.25
        Momentum.predictors = {'z': @predictor/MLP()}
        predictor/MLP.widths = (128, 256, 128)
        """,
    "SigLIP on SupCon's groups with momentum keys": """
        include 'moco_v2.gin'
        MemoryViews.group = @ByLabel()
        Term.provider = @InBatch()
        InBatch.same_view = True
        Term.loss = @Sigmoid()
        Sigmoid.temperature = @LearnedTemperature()
        cl.train.hooks = [@UpdateMomentum(), @CollapseMonitor()]
        """,
    "CLIP with a queue of pictures' and texts' keys": """
        include 'clip.gin'
        Objective.encoder = @Momentum()
        Momentum.encoder = @Dual()
        Term.provider = @Queue()
        Queue.inner = @InBatch()
        Queue.size = 512
        Queue.dim = 128
        cl.train.hooks = [@UpdateMomentum(), @Enqueue()]
        UpdateMomentum.momentum = 0.99
        """,
    "SupCon whose negatives are a sample's neighbours of the past": """
        include 'nnclr.gin'
        MemoryViews.group = @ByLabel()
        """,
}
REFUSED = {
    "VICReg with a queue": (
        """
        include 'vicreg.gin'
        Term.provider = @Queue()
        Queue.inner = @PositivesOnly()
        Queue.size = 512
        Queue.dim = 256
        """,
        "Queue needs 'momentum'.*@Momentum",
    ),
    "pictures alone as queries of texts' keys": (
        """
        include 'clip.gin'
        Objective.encoder = @Momentum()
        Momentum.encoder = @Dual()
        InBatch.queries = (0,)
        cl.train.hooks = [@UpdateMomentum(), @CollapseMonitor()]
        UpdateMomentum.momentum = 0.9
        """,
        "The tower 'text' is to be trained, and no loss has a gradient",
    ),
}


def read(text, folder):
    lines = [line.strip() for line in text.strip().splitlines()]
    assert len(lines) <= 10
    path = folder / "asked.gin"
    path.write_text("\n".join(lines).replace("include '", f"include '{GIN}/"))
    return wiring.read([path], ["MemoryViews.batch = 16"])


@pytest.mark.usefixtures("digits_loaded_once")
@pytest.mark.parametrize("name", RUNS)
def test_it_runs(name, tmp_path):
    torch.manual_seed(0)
    training = read(RUNS[name], tmp_path).build()
    rules.check(training)
    training.start()
    batches, folder = training.views.iterate(training.place), RunFolder(tmp_path / "run", resume=False)
    before = {name: value.clone() for name, value in training.objective.named_parameters() if value.requires_grad}
    # The first step meets an empty queue, and blocks that start as the identity pass nothing on at first.
    for index in range(3):
        output, *_ = training.step(Step(index, 3), batches, folder)
        assert math.isfinite(output.loss)
    still = [
        name for name, value in training.objective.named_parameters() if torch.equal(before.get(name, value), value)
    ]
    assert not set(still) & before.keys()


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name, tmp_path):
    text, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said):
        rules.check(read(text, tmp_path).build())
