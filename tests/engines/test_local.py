import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import pictures, tower
from torch import nn

from cl.components import Step
from cl.encoders.norms import BatchNorm
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.engines.engine import Engine
from cl.engines.local import LocalEngine
from cl.errors import NumericError
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.negatives.in_batch import InBatch
from cl.objective import Objective, Term
from cl.optim.adamw import AdamW
from cl.optim.lars import LARS
from cl.optim.schedules import Constant, Cosine
from cl.optim.sgd import SGD

CPU = torch.device("cpu")


def simclr(net=None, seed=0):
    torch.manual_seed(seed)
    net = tower() if net is None else net()
    return Objective(siamese(net), {"simclr": Term(InBatch(True), InfoNCE(LearnedTemperature(0.2)))})


def convolutional():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), BatchNorm(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Tower(conv, {"z": nn.Linear(4, 4)})


def started(objective, optimizer=None, schedule=None, precision=torch.float32, **settings_):
    engine = LocalEngine(**settings_)
    optimizer = SGD(1.0, momentum=0.0) if optimizer is None else optimizer
    engine.start(objective, optimizer, Constant() if schedule is None else schedule, CPU, precision)
    return engine


def run(engine, batches, first=0, total=10):
    outputs = []
    for index, views in enumerate(batches):
        output = engine(views)
        engine.backward(output)
        outputs.append(engine.step(Step(first + index // engine.accumulate, total)))
    return outputs


def weights(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


def gradient(objective, views):
    objective = copy.deepcopy(objective)
    objective(views).loss.backward()
    return {name: p.grad for name, p in objective.named_parameters()}


def test_is_an_engine_in_train_mode():
    objective = simclr().eval()
    engine = started(objective)
    assert isinstance(engine, Engine) and objective.training


@settings(max_examples=10)
@given(st.integers(1, 4))
def test_accumulated_batches_average_their_gradients(accumulate):
    objective = simclr()
    batches = [pictures(4, seed=seed, first=10 * seed) for seed in range(accumulate)]
    each = [gradient(objective, views) for views in batches]
    before = dict(objective.named_parameters())
    before = {name: value.detach().clone() for name, value in before.items()}
    engine = started(objective, accumulate=accumulate)
    *waiting, output = run(engine, batches)
    assert waiting == [None] * (accumulate - 1)
    for name, parameter in objective.named_parameters():
        mean = torch.stack([found[name] for found in each]).mean(dim=0)
        torch.testing.assert_close(parameter.detach(), before[name] - mean, rtol=1e-4, atol=1e-5)
    # The step's output covers all of its batches.
    assert output.embeddings["z"].q_ids[:, 1].tolist() == [v for _ in (0, 1) for views in batches for v in views.sample]
    assert not output.loss.requires_grad and not output.embeddings["z"].q.requires_grad
    torch.testing.assert_close(output.loss, output.losses["simclr"])


def test_the_output_of_accumulated_batches_is_their_mean():
    batches = [pictures(4, seed=seed) for seed in range(2)]
    losses = [simclr()(views).loss.detach() for views in batches]
    *_, output = run(started(simclr(), accumulate=2), batches)
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_clipping_bounds_the_whole_gradient(clip):
    objective, views = simclr(), pictures(4)
    found = gradient(objective, views)
    norm = torch.stack([g.norm() for g in found.values()]).norm()
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    run(started(objective, clip=clip), [views])
    for name, parameter in objective.named_parameters():
        expected = before[name] - found[name] * min(1.0, clip / norm)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-3, atol=1e-6)


def test_the_schedule_sets_the_rate_of_every_step():
    engine = started(simclr(), SGD(0.5, momentum=0.0), Cosine())
    for index in range(4):
        run(engine, [pictures(4)], first=index, total=4)
        assert {g["lr"] for g in engine.optimizer.param_groups} == {0.5 * Cosine()(Step(index, 4))}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_no_weight(value, precision):
    objective = simclr()
    engine = started(objective, AdamW(0.1), precision=precision)
    run(engine, [pictures(4)])
    before = weights(objective)
    bad = pictures(4)
    bad.crops[0][1] = value
    with pytest.raises(NumericError, match=r"Step 8.*weights were not changed") as error:
        run(engine, [bad], first=7)
    assert error.value.code == 4 and same(weights(objective), before)


def test_a_gradient_that_is_not_finite_changes_no_weight():
    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *gradients):
            return gradients[0] * float("inf")

    class Layer(nn.Module):
        def forward(self, x):
            return Spike.apply(x)

    def net():
        plain = tower()
        return Tower(nn.Sequential(plain.trunk, Layer()), {"z": plain.heads["z"]})

    objective = simclr(net)
    engine, before = started(objective), weights(objective)
    with pytest.raises(NumericError, match="gradient's norm"):
        run(engine, [pictures(4)])
    assert same(weights(objective), before)


def test_autocast_is_the_precision_asked_for():
    for precision, expected in ((torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16)):
        objective = simclr()
        seen = []
        head = objective.encoder.towers["image"].heads["z"]
        head.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.dtype))
        output = started(objective, precision=precision)(pictures(4))
        assert set(seen) == {expected} and output.loss.dtype == output.embeddings["z"].q.dtype == torch.float32


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_is_the_one_asked_for(channels_last):
    objective = simclr(convolutional)
    engine = started(objective, channels_last=channels_last)
    weight = objective.encoder.towers["image"].trunk[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    run(engine, [pictures(4)])


@pytest.mark.parametrize("optimizer", [AdamW(0.05), SGD(0.1), LARS(0.1)], ids=["adamw", "sgd", "lars"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_restored_optimizer_goes_on_bit_for_bit(optimizer, channels_last):
    batches = [pictures(4, seed=seed) for seed in range(5)]
    whole = simclr(convolutional)
    engine = started(whole, optimizer, Cosine(), channels_last=channels_last)
    run(engine, batches[:3])
    # Files hold contiguous tensors.
    saved = {name: value.contiguous().clone() for name, value in engine.state_dict().items()}
    model = {name: value.contiguous().clone() for name, value in whole.state_dict().items()}
    run(engine, batches[3:], first=3)

    resumed = simclr(convolutional, seed=1)
    again = started(resumed, optimizer, Cosine(), channels_last=channels_last)
    resumed.load_state_dict(model)
    again.load_state_dict(saved)
    assert same(again.state_dict(), saved)
    run(again, batches[3:], first=3)
    assert same(weights(resumed), weights(whole)) and same(again.state_dict(), engine.state_dict())


def test_a_frozen_tower_is_absent_from_the_optimizer():
    objective = Objective(
        siamese(tower(frozen=True)), {"simclr": Term(InBatch(True), InfoNCE(LearnedTemperature(0.2)))}
    )
    engine = started(objective)
    assert [name for group in engine.optimizer.param_groups for name in group["names"]] == [
        "terms.simclr.loss.temperature.log_scale"
    ]
    before = weights(objective.encoder)
    run(engine, [pictures(4)])
    assert same(weights(objective.encoder), before)


def test_accumulate_must_be_positive():
    with pytest.raises(ValueError, match=r"LocalEngine\.accumulate"):
        LocalEngine(accumulate=0)
