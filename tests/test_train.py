import itertools
import json
import os
import signal
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from tiny import Noise, Pictures, tower
from torch import nn

from cl.checkpoint import read, read_last
from cl.components import Place
from cl.encoders.mlp import MLP
from cl.encoders.momentum import Momentum
from cl.encoders.norms import BatchNorm, SplitBatchNorm
from cl.encoders.siamese import siamese
from cl.encoders.tower import Tower
from cl.engines.local import LocalEngine
from cl.errors import CheckpointError, NumericError, Preempted
from cl.hooks.enqueue import Enqueue
from cl.hooks.monitor import CollapseMonitor
from cl.hooks.stateless import Stateless
from cl.hooks.update_momentum import UpdateMomentum
from cl.losses.alignment import Alignment
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import LearnedTemperature
from cl.negatives.in_batch import InBatch
from cl.negatives.positives_only import PositivesOnly
from cl.negatives.queue import Queue
from cl.objective import Objective, Term
from cl.optim.adamw import AdamW
from cl.optim.lars import LARS
from cl.optim.schedules import Cosine
from cl.optim.sgd import SGD
from cl.run_folder import RunFolder
from cl.train import Training
from cl.views.groups import BySample
from cl.views.memory import MemoryViews

STEPS = 6


class Recorder(Stateless):
    """What every applied step came to."""

    needs = frozenset()

    def __init__(self):
        self.steps, self.losses, self.samples, self.weights = [], [], [], {}

    def __call__(self, objective, output, step):
        self.steps.append(step.index)
        self.losses.append(output.loss.item())
        self.samples.append(output.embeddings["z"].q_ids[:, 1].tolist())
        self.weights = state(objective)
        return {}


class Signal(Stateless):
    """Asks the process to stop in the middle of a step."""

    needs = frozenset()

    def __init__(self, index, number=signal.SIGTERM):
        self.index, self.number = index, number

    def __call__(self, objective, output, step):
        if step.index == self.index:
            os.kill(os.getpid(), self.number)
        return {}


class Poisoned(MemoryViews):
    """Batch number `bad` has one picture that is not a number."""

    bad = 0

    def iterate(self, place):
        for number, views in enumerate(super().iterate(place)):
            views = views.made()
            if number == self.bad:
                views.crops[1][2] = float("nan")
            yield views


class Counting:
    """An evaluation that says how often it was asked."""

    name = "count"
    needs = frozenset()

    def __init__(self):
        self.data = {"test": Pictures(3)}
        self.asked = []

    def baseline(self, device):
        return {"count_baseline": 0.5}

    def __call__(self, encoder, split, device):
        self.asked.append(split)
        return {"count": float(len(self.asked))}


def simclr():
    conv = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), BatchNorm(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = Tower(conv, {"z": MLP((4, 8, 4), norm=BatchNorm)})
    return siamese(net), Term(InBatch(True), InfoNCE(LearnedTemperature(0.2))), []


def moco():
    net = tower(norm=partial(SplitBatchNorm, splits=2))
    encoder = Momentum(siamese(net, joint=False), query_views=(0,), key_views=(1,), shuffle_keys=True)
    hooks = [UpdateMomentum(0.9), Enqueue(), CollapseMonitor(every=2, std_fraction=100.0, patience=3)]
    return encoder, Term(Queue(PositivesOnly(), size=20, dim=4), InfoNCE(0.2)), hooks


def byol():
    encoder = Momentum(siamese(tower(norm=BatchNorm), joint=False), predictors={"z": MLP((4, 8, 4), norm=BatchNorm)})
    hooks = [UpdateMomentum(Cosine(0.9, 1.0), buffers="average"), CollapseMonitor(every=1)]
    return encoder, Term(PositivesOnly(), Alignment(), weight=2.0), hooks


VARIANTS = {"simclr": (simclr, AdamW(0.02)), "moco": (moco, SGD(0.05)), "byol": (byol, LARS(0.5))}


def training(variant="simclr", steps=STEPS, hooks=(), seed=0, initial=0, accumulate=1, source=MemoryViews, **settings):
    torch.manual_seed(initial)
    wire, optimizer = VARIANTS[variant]
    encoder, term, own = wire()
    return Training(
        objective=Objective(encoder, {variant: term}),
        views=source(Pictures(22), 8, [Noise(), Noise()], BySample()),
        optimizer=optimizer,
        schedule=Cosine(warmup=0.2),
        engine=LocalEngine(accumulate=accumulate),
        steps=steps,
        hooks=[*own, *hooks],
        seed=seed,
        log_every=1,
        **{"precision": "float32", **settings},
    )


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def lines(folder):
    return [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def folders(tmp_path):
    def make(name="run", resume=False):
        return RunFolder(tmp_path / name, resume)

    return make


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(variant, folders):
    recorder, first, second = Recorder(), Recorder(), Recorder()
    whole = training(variant, hooks=[recorder]).run(folders("whole"))
    with pytest.raises(Preempted, match=r"SIGTERM after step 3.*--resume") as stopped:
        training(variant, hooks=[first, Signal(2)]).run(folders("broken"))
    assert stopped.value.code == 143
    assert read_last(folders("broken", True).checkpoints).step == 3
    # Another process: other random numbers, another initialisation.
    resumed = training(variant, hooks=[second, Signal(99)], initial=5)
    summary = resumed.run(folders("broken", True), resume=True)

    assert first.steps + second.steps == recorder.steps == list(range(STEPS))
    assert first.losses + second.losses == recorder.losses
    assert first.samples + second.samples == recorder.samples
    assert lines(folders("broken", True)) == lines(folders("whole", True))
    one, other = (read_last(folders(name, True).checkpoints) for name in ("whole", "broken"))
    assert one.step == other.step == STEPS
    assert same(one.model, other.model) and same(one.optimizer, other.optimizer)
    (own,), (others,) = one.ranks, other.ranks
    assert same(own.tensors, others.tensors) and own.tensors.keys() == {"|rng"}
    assert own.state["views"] == others.state["views"] and [*own.state["hooks"], {}] == others.state["hooks"]
    timing = {"seconds", "images_per_second", "data_wait"}
    assert {k: v for k, v in summary.items() if k not in timing} == {k: v for k, v in whole.items() if k not in timing}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_losses_twice_and_another_seed_others(variant, folders):
    losses = []
    for number, seed in enumerate((0, 0, 1)):
        recorder = Recorder()
        training(variant, hooks=[recorder], seed=seed).run(folders(str(number)))
        losses.append(recorder.losses)
    assert losses[0] == losses[1] != losses[2]


def test_a_finished_run_may_be_resumed(folders):
    summary = training().run(folders())
    again = training().run(folders(resume=True), resume=True)
    assert again["loss"] == summary["loss"] and again["steps"] == STEPS


def test_a_finished_run_that_is_resumed_has_its_test_figures_once(folders):
    for resume in (False, True, True):
        training(evaluations=[Counting()]).run(folders(resume=resume), resume=resume)
    found = lines(folders(resume=True))
    assert [line["step"] for line in found if "test_count" in line] == [STEPS]
    assert len([line for line in found if "loss" in line]) == STEPS


def test_an_evaluation_comes_after_the_checkpoint_and_is_made_again_by_who_goes_on_there(folders):
    class Killed(Exception):
        pass

    class Patience(Counting):
        def __call__(self, encoder, split, device):
            if split == "validation" and broken:
                assert read_last(folders("broken", True).checkpoints).step == 2
                raise Killed
            return super().__call__(encoder, split, device)

    broken = False
    settings = {"evaluate_every": 2, "checkpoint_every": 2, "steps": 4}
    training(evaluations=[Patience()], **settings).run(folders("whole"))
    broken = True
    with pytest.raises(Killed):
        training(evaluations=[Patience()], **settings).run(folders("broken"))
    broken = False
    for _ in range(2):
        training(evaluations=[Patience()], **settings).run(folders("broken", True), resume=True)
        (folders("broken", True).checkpoints / "last").write_text("step-00000002")
    whole, mended = ([(line["step"], set(line)) for line in lines(folders(n, True))] for n in ("whole", "broken"))
    assert mended == whole


def test_a_signal_during_an_evaluation_ends_the_run_at_that_step(folders, monkeypatch):
    now = time.monotonic

    class Interrupted(Counting):
        def __call__(self, encoder, split, device):
            if split == "validation" and signals:
                monkeypatch.setattr("cl.train.time.monotonic", lambda: now() + 1000)  # it takes that long
                signal.raise_signal(signals.pop())
            return super().__call__(encoder, split, device)

    signals = []
    settings = {"evaluate_every": 2, "steps": 4}
    training(evaluations=[Interrupted()], **settings).run(folders("whole"))
    signals.append(signal.SIGTERM)
    with pytest.raises(Preempted, match="SIGTERM after step 2, with a checkpoint"):
        training(evaluations=[Interrupted()], **settings).run(folders("broken"))
    saved = read_last(folders("broken", True).checkpoints)
    assert saved.step == 2 and saved.notes["seconds"] > 1000
    training(evaluations=[Interrupted()], **settings).run(folders("broken", True), resume=True)
    whole, mended = ([(line["step"], set(line)) for line in lines(folders(n, True))] for n in ("whole", "broken"))
    assert mended == whole


def test_who_goes_on_without_an_evaluation_keeps_the_figures_there_are(folders):
    training(evaluations=[Counting()], evaluate_every=2, checkpoint_every=2, steps=4).run(folders())
    (folders(resume=True).checkpoints / "last").write_text("step-00000002")
    training(evaluations=[Counting()], checkpoint_every=2, steps=4).run(folders(resume=True), resume=True)
    assert [line["step"] for line in lines(folders(resume=True)) if "count" in line] == [2]


def test_without_evaluations_no_line_is_empty(folders):
    training(evaluate_every=2, steps=4).run(folders())
    assert all("loss" in line for line in lines(folders(resume=True)))


def test_what_a_run_leaves_behind(folders):
    recorder, evaluation = Recorder(), Counting()
    built = training("moco", hooks=[recorder], evaluations=[evaluation], evaluate_every=2, checkpoint_every=2, keep=2)
    summary = built.run(folders())
    folder = folders(resume=True)
    written = {path.name for path in folder.path.iterdir()}
    assert written >= {"environment.json", "metrics.jsonl", "train.log", "checkpoints", "summary.json"}
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    wanted = {"steps", "seconds", "images_per_second", "loss", "feature_std", "effective_rank", "collapsed"}
    assert wanted <= summary.keys() and summary["loss"] == recorder.losses[-1] and summary["steps"] == STEPS
    # Before the first step on test, at steps 2 and 4 on validation, at the end on test.
    assert evaluation.asked == ["test", "validation", "validation", "test"]
    assert summary["count_random_init"] == 1 and summary["count"] == 4 and summary["count_baseline"] == 0.5
    records = [line for line in lines(folder) if "loss" in line]
    assert [line["step"] for line in records] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in records] == recorder.losses
    assert [line for line in lines(folder) if "count" in line] == [{"step": 2, "count": 2}, {"step": 4, "count": 3}]
    assert [line["momentum"] for line in records] == pytest.approx([0.9] * 6)
    assert [line["queue_fill/moco"] for line in records] == [8, 16, 20, 20, 20, 20]
    assert sorted(path.name for path in folder.checkpoints.glob("step-*")) == ["step-00000004", "step-00000006"]
    trunk = load_file(folder.path / "trunk.image.safetensors")
    assert same(trunk, state(built.objective.encoder.trunks()["image"]))


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_hooks_run_once_per_applied_step_over_all_of_its_batches(accumulate, folders):
    recorder = Recorder()
    built = training("moco", hooks=[recorder], accumulate=accumulate, steps=4)
    built.run(folders())
    assert recorder.steps == [0, 1, 2, 3]
    batches = [views.sample.tolist() for views in itertools.islice(fresh_views(), 4 * accumulate)]
    expected = [[s for batch in batches[i * accumulate :][:accumulate] for s in batch] for i in range(4)]
    assert recorder.samples == expected
    queue = built.objective.terms["moco"].provider
    assert int(queue.ring.fill) == min(20, 4 * accumulate * 8)
    newest = [int(i) for i in (torch.arange(-8 * accumulate, 0) + int(queue.ring.position)) % 20][-20:]
    assert queue.ring.ids[newest, 1].tolist() == expected[-1][-20:]


def fresh_views():
    return MemoryViews(Pictures(22), 8, [Noise(), Noise()], BySample()).iterate(Place())


def test_the_momentum_copy_moves_after_the_optimizer(folders):
    class Follow(Stateless):
        needs = frozenset({"momentum"})
        moved = 0

        def __call__(self, objective, output, step):
            online, target = (list(net.parameters()) for net in (objective.encoder.online, objective.encoder.target))
            assert all(torch.equal(a, b) for a, b in zip(online, target, strict=True))
            self.moved += 1
            return {}

    follow = Follow()
    built = training("byol", steps=3)
    built.hooks = [UpdateMomentum(0.0), follow]
    before = state(built.objective.encoder.online)
    built.run(folders())
    assert follow.moved == 3 and not same(before, state(built.objective.encoder.online))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_batchs_keys(accumulate, precision, folders):
    recorder = Recorder()
    built = training("simclr", hooks=[recorder], source=Poisoned, accumulate=accumulate, precision=precision)
    built.views.bad = 2 * accumulate  # the first batch of step 2
    with pytest.raises(NumericError, match=r"Step 3.*not changed.*bad_batch\.json") as error:
        built.run(folders())
    assert error.value.code == 4 and recorder.steps == [0, 1]
    weights = dict(built.objective.named_parameters())
    assert all(torch.equal(p, recorder.weights[name]) for name, p in weights.items())
    bad = json.loads((folders(resume=True).path / "bad_batch.json").read_text())
    batches = list(itertools.islice(fresh_views(), 3 * accumulate))[2 * accumulate :]
    assert bad == {"step": 3, "keys": [key for views in batches for key in views.keys]}
    assert not (folders(resume=True).path / "summary.json").exists()


def test_after_a_bad_loss_the_last_checkpoint_is_the_one_before(folders):
    built = training(source=Poisoned, checkpoint_every=1)
    built.views.bad = 2
    with pytest.raises(NumericError):
        built.run(folders())
    assert read_last(folders(resume=True).checkpoints).step == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_a_checkpoint_and_handlers_come_back(number, folders):
    before = signal.getsignal(number)
    with pytest.raises(Preempted, match=f"{number.name} after step 1"):
        training(hooks=[Signal(0, number)]).run(folders())
    assert signal.getsignal(number) is before
    assert read_last(folders(resume=True).checkpoints).step == 1
    assert not (folders(resume=True).path / "summary.json").exists()


def test_a_signal_during_the_last_step_changes_nothing(folders):
    assert training(hooks=[Signal(STEPS - 1)]).run(folders())["steps"] == STEPS


def test_the_checkpoint_of_another_model_is_refused(folders):
    training("simclr").run(folders())
    with pytest.raises(CheckpointError, match="another model") as error:
        training("moco").run(folders(resume=True), resume=True)
    assert error.value.code == 5


def test_a_resume_takes_the_newest_whole_checkpoint_and_says_which(folders):
    training().run(folders("whole"))
    folder = folders()
    with pytest.raises(Preempted):
        training(hooks=[Recorder(), Signal(3)], checkpoint_every=1, keep=3).run(folder)
    model = folder.checkpoints / "step-00000004" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    recorder = Recorder()
    training(hooks=[recorder, Signal(99)]).run(folder, resume=True)
    assert recorder.steps == [3, 4, 5] and lines(folder) == lines(folders("whole", True)), "each step once"
    said = (folder.path / "train.log").read_text().splitlines()
    at = said.index("goes on after step 3 (checkpoints/step-00000003)")
    assert str(model) in said[at - 1] and "not what was written" in said[at - 1]
    # One of another model is whole: nothing older is tried.
    with pytest.raises(CheckpointError, match="step 6 is of another model"):
        training("moco").run(folder, resume=True)


def test_damaged_checkpoints_do_not_count_as_kept_once_a_resume_was_accepted(folders):
    folder = folders()
    training(steps=4, checkpoint_every=1, keep=0).run(folder)
    for step in (2, 3, 4):
        model = folder.checkpoints / f"step-{step:08d}" / "model.safetensors"
        model.write_bytes(bytes(255 - byte for byte in model.read_bytes()))

    def kept():
        return sorted(path.name.replace("step-0000000", "") for path in folder.checkpoints.iterdir())

    with pytest.raises(CheckpointError, match="another model"):
        training("moco").run(folder, resume=True)
    assert kept() == ["1", "2", "3", "4", "last"], "a refused one changes nothing"
    training(checkpoint_every=5, keep=2, steps=5).run(folder, resume=True)
    assert kept() == ["1", "5", "damaged-2", "damaged-3", "damaged-4", "last"]
    training(checkpoint_every=5, keep=2).run(folder, resume=True)
    assert kept() == ["5", "6", "damaged-2", "damaged-3", "damaged-4", "last"]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(folders):
    training().run(folders("whole"))
    folder = folders()
    (folder.path / "metrics.jsonl").write_text('{"step": 1, "loss": 9.0}\n{"step": 2, "lo')
    (folder.path / "train.log").write_text("of the earlier attempt\n")
    (folder.checkpoints / ".step-00000002.4711").mkdir(parents=True)
    training().run(folders(resume=True), resume=True)
    assert lines(folder) == lines(folders("whole", True))
    log = (folder.path / "train.log").read_text()
    assert log.startswith("of the earlier attempt\nthere is no checkpoint yet: starts at the first step\n")


def test_a_run_that_is_not_there_is_not_resumed(folders):
    with pytest.raises(CheckpointError, match="no run to resume") as error:
        folders(resume=True)
    assert error.value.code == 5


def overflowing(run, at):
    """The run, with a gradient that is not finite at those backward passes."""
    calls = itertools.count()
    parameter = next(run.objective.parameters())
    parameter.register_hook(lambda gradient: gradient * torch.inf if next(calls) in at else gradient)
    return run


def test_batches_that_overflow_are_left_out_and_counted_and_no_hook_runs_for_them(folders, tmp_path):
    recorder, plain = Recorder(), Recorder()
    run = overflowing(training("moco", hooks=[recorder], overflows=2), at={1, 2, 5})
    folder = folders()
    summary = run.run(folder)
    assert recorder.steps == list(range(STEPS)) and summary["overflows"] == 3
    training("moco", steps=STEPS + 3, hooks=[plain]).run(RunFolder(tmp_path / "plain", resume=False))
    taken = [each for number, each in enumerate(plain.samples) if number not in (1, 2, 5)]
    assert recorder.samples == taken, "the batches in between are the run's next ones"
    assert "step 2 was tried anew, as gradients were not finite; times: 2" in (folder.path / "train.log").read_text()
    assert all(value.isfinite().all() for value in recorder.weights.values())


def test_one_overflow_more_in_a_row_ends_the_run_and_they_are_counted_across_a_resume(folders):
    recorder, folder = Recorder(), folders()
    settings = {"hooks": [recorder], "overflows": 1, "checkpoint_every": 1}
    with pytest.raises(NumericError, match=r"Step 3.*bad_batch\.json") as error:
        overflowing(training(**settings), at={1, 3, 4}).run(folder)
    before = recorder.weights
    assert (
        error.value.code == 4 and recorder.steps == [0, 1] and same(before, dict(read_last(folder.checkpoints).model))
    )
    assert len(json.loads((folder.path / "bad_batch.json").read_text())["keys"]) == 8
    assert training(**settings).run(folder, resume=True)["overflows"] == 1


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"log_every": 0},
        {"evaluate_every": -2},
        {"checkpoint_every": -2},
        {"overflows": -1},
        {"timeout": 0.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(setting):
    (name,) = setting
    moved = {"steps": STEPS, "log_every": 1, **setting}
    built = training()
    with pytest.raises(ValueError, match=rf"cl\.train\.(.*\.)?{name}"):
        Training(built.objective, built.views, built.optimizer, built.schedule, built.engine, **moved)


def test_an_accelerators_random_state_is_kept(folders, monkeypatch):
    """As far as it can be seen without one."""
    device, taken = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda of: torch.tensor([7, of.index], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, of: taken.append((value.tolist(), of)))
    built, folder = training(), folders()
    built.start()
    built._save(folder, 1, {})
    built._resume(read_last(folder.checkpoints))
    built.place = replace(built.place, device=device)
    built._resume(read_last(folder.checkpoints))  # which has none
    assert not taken
    built._save(folder, 2, {})
    built._resume(read_last(folder.checkpoints))
    assert taken == [([7, 0], device)]


def test_checkpoints_hold_the_state_of_their_step(folders):
    recorder = Recorder()
    built = training("moco", hooks=[recorder], steps=4)
    built.run(folders())
    saved = read(folders(resume=True).checkpoints / "step-00000004")
    assert same(dict(saved.model), recorder.weights)
    assert saved.ranks[0].state["views"] == {"epoch": 1, "position": 16}


def test_with_other_processes_an_epochs_count_of_what_was_left_out_starts_anew(folders, monkeypatch):
    """For a process has a part of what may be, and knows nothing of the others'."""
    training().run(folders())
    saved = read_last(folders(resume=True).checkpoints)
    views = saved.ranks[0].state["views"] | {"skipped": {"a": 1}, "skipped_now": {"a": 1}}
    state = saved.ranks[0].state | {"views": views}
    two, other, seen = replace(saved, ranks=[replace(saved.ranks[0], state=state)] * 2), training(), []
    other.load(two)
    other.start()
    monkeypatch.setattr(other.views, "load_state_dict", seen.append)
    other._resume(two)
    assert (seen[0]["skipped"], seen[0]["skipped_now"]) == ({"a": 2}, {})
