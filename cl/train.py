"""The training: one loop for every variant."""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import gin
import torch
import torch.distributed as dist
from torch import Tensor

from cl import leak, rollbacks
from cl.checkpoint import Checkpoint, Rank, newest_for_all, regrouped, set_aside, write
from cl.components import Place, PostStepHook, RollsBack, Step, ViewSource
from cl.distributed import gather_objects, largest_over_ranks, mean_over_ranks, on_first, rank, world_size
from cl.engines.engine import Engine
from cl.errors import CheckpointError, ConfigError, NumericError, Overflow, Preempted, RollBack
from cl.evaluation.evaluation import Evaluation, Split
from cl.export import trunks
from cl.objective import Objective
from cl.optim.optimizer import Optimizer
from cl.optim.schedules import Schedule
from cl.precision import Precision, autocast_dtype
from cl.processes import interrupts
from cl.report import Report
from cl.rollbacks import Rollback
from cl.run_folder import RunFolder
from cl.types import StepOutput, Views
from cl.views.loading import told


@gin.register("train", module="cl")
class Training:
    """Everything a run is made of. Building it opens no data; `run` does the work.

    Args:
        objective: encoder and terms.
        views: where batches come from.
        optimizer: what steps the parameters.
        schedule: factor on the learning rate.
        engine: how a step is carried out.
        steps: optimizer steps of the whole run.
        hooks: run after every applied step, in order.
        evaluations: on held-out data: before the first step, during the run (validation) and at its end (test).
        seed: of initialisation, order and augmentation.
        precision: "auto" is bfloat16 autocast where the machine computes with it, float32 elsewhere.
        evaluate_every: steps between evaluations on validation; 0: only at the end.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        log_every: steps between lines of metrics.jsonl.
        keep: checkpoints that are kept; 0: all.
        processes: how many there must be; None: as many as the launcher starts.
        timeout: seconds that a process waits for the others before it takes them for lost.
        overflows: times in a row that a step may be tried anew, with the next batches, because a gradient is not finite
            though the loss is, as numbers of lower precision may overflow. They are counted, no hook runs for them; one
            more ends the run.
        allow_collapse: turns the refusals that guard against collapse into warnings.
    """

    def __init__(
        self,
        objective: Objective,
        views: ViewSource,
        optimizer: Optimizer,
        schedule: Schedule,
        engine: Engine,
        steps: int,
        hooks: Sequence[PostStepHook] = (),
        evaluations: Sequence[Evaluation] = (),
        seed: int = 0,
        precision: Precision = "auto",
        evaluate_every: int = 0,
        checkpoint_every: int = 0,
        log_every: int = 20,
        keep: int = 2,
        processes: int | None = None,
        timeout: float = 600.0,
        overflows: int = 0,
        allow_collapse: bool = False,
    ):
        if steps < 1:
            raise ValueError(f"cl.train.steps must be at least 1, got {steps}")
        if keep < 0:
            raise ValueError(f"cl.train.keep must be at least 0, which keeps all; got {keep}")
        if log_every < 1:
            raise ValueError(f"cl.train.log_every must be at least 1, got {log_every}")
        if evaluate_every < 0 or checkpoint_every < 0:
            raise ValueError(
                "cl.train.evaluate_every and .checkpoint_every must be at least 0, which leaves it to the end; got "
                f"{evaluate_every} and {checkpoint_every}"
            )
        if overflows < 0 or not timeout > 0:
            raise ValueError(
                f"cl.train.overflows must be at least 0 and .timeout above 0, got {overflows} and {timeout}"
            )
        self.objective = objective
        self.views = views
        self.optimizer = optimizer
        self.schedule = schedule
        self.engine = engine
        self.steps = steps
        self.hooks = hooks
        names = [evaluation.name for evaluation in evaluations]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"cl.train.evaluations has {twice[0]!r} twice: the one's figures would hide the other's")
        self.evaluations = evaluations
        self.precision: Precision = precision
        self.evaluate_every = evaluate_every
        self.checkpoint_every = checkpoint_every
        self.log_every = log_every
        self.keep = keep
        self.processes = processes
        self.timeout = timeout
        self.overflows = overflows
        self.allow_collapse = allow_collapse
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        self.place = Place(rank(), world_size(), device, seed)

    def run(self, folder: RunFolder, resume: bool = False) -> dict[str, Any]:
        """Trains, evaluates and writes everything into `folder`; returns the summary. A call of all processes."""
        started = time.monotonic()
        checkpoint, damaged, lines = newest_for_all(folder.checkpoints) if resume else (None, [], [])
        if checkpoint is not None:
            if checkpoint.step > self.steps:
                raise ConfigError(
                    f"The run in {folder.path} is at step {checkpoint.step}, and cl.train.steps is {self.steps}: bind "
                    f"it to {checkpoint.step} or more."
                )
            self.load(checkpoint)
        self.start()
        done, notes = (0, {}) if checkpoint is None else self._resume(checkpoint)
        if checkpoint is not None:
            lines += regrouped(checkpoint)
        del checkpoint  # as large as the model and its optimizer
        if resume:  # from here on nothing refuses it
            on_first(folder.claim)
            on_first(lambda: set_aside(damaged))
        undone = on_first(lambda: rollbacks.read(folder))
        evaluates = bool(self.evaluations and self.evaluate_every) and done % self.evaluate_every == 0
        with Report(folder.path, self.steps, done, evaluates, quiet=rank() > 0) as report, interrupts() as interrupted:
            if undone and undone[-1].step == done:
                lines.append(
                    f"rolled back: {undone[-1].why} The rate is {rollbacks.rate(undone, done):g} of the first."
                )
            for line in lines:
                report.say(line)
            if not notes:
                notes = {"seconds": 0.0, "training_seconds": 0.0, "waiting_seconds": 0.0, "before": self._before()}
            for name, value in notes["before"].items():
                report.say(f"before the first step, on test: {name} {value:.3f}")
            if self._reach() and not done:  # what collapses at the start goes back there
                self._save(folder, 0, notes)
            try:
                return self._loop(folder, report, done, notes, undone, started, interrupted)
            except RollBack:
                if stopped := largest_over_ranks(interrupted[0] if interrupted else 0):
                    raise _preempted(stopped, "before it went back from a collapse", folder) from None
                raise

    def _reach(self) -> int:
        """Steps that a hook may go back."""
        return max((hook.reach for hook in self.hooks if isinstance(hook, RollsBack)), default=0)

    def _loop(
        self,
        folder: RunFolder,
        report: Report,
        done: int,
        notes: dict[str, Any],
        undone: Sequence[Rollback],
        started: float,
        interrupted: list[int],
    ) -> dict[str, Any]:
        batches, earlier = _Timed(self.views.iterate(self.place)), notes["seconds"]
        looked_at = batches if done else leak.told(batches, self.objective, self.engine, report.say)
        last: dict[str, float] = notes.setdefault("last", {})
        notes.setdefault("overflows", 0)
        for index in range(done, self.steps):
            figures: dict[str, float] = {}
            if index and self.evaluate_every and index % self.evaluate_every == 0:
                # What is due is saved by now: an evaluation may outlast a launcher's patience with a signal.
                figures = self.evaluate("validation")
                if figures:
                    on_first(partial(report.record, index, figures))
                notes["seconds"] = earlier + time.monotonic() - started
                self._end_step(folder, index, notes, interrupted)
            clock = time.monotonic()
            step = Step(index, self.steps, rollbacks.rate(undone, index))
            applied, measured, overflows = self.step(step, looked_at, folder)
            notes["training_seconds"] += time.monotonic() - clock
            notes["waiting_seconds"] += batches.taken()
            if overflows:
                notes["overflows"] += overflows
                report.say(f"step {index + 1} was tried anew, as gradients were not finite; times: {overflows}")

            metrics = {}
            if measured.keys() & {"feature_std"} or index % self.log_every == 0 or index + 1 == self.steps:
                metrics = _numbers(applied, measured)
            if metrics:
                on_first(partial(report.record, index + 1, metrics))
                last |= metrics
            report.advance(index + 1, figures | metrics)

            notes["seconds"] = earlier + time.monotonic() - started
            due = bool(self.checkpoint_every) and (index + 1) % self.checkpoint_every == 0
            self._end_step(folder, index + 1, notes, interrupted, save=due or index + 1 == self.steps)
        test = self.evaluate("test")
        notes["seconds"] = earlier + time.monotonic() - started
        tested = {f"test_{name}": value for name, value in test.items()}
        if tested:
            on_first(partial(report.record, self.steps, tested))
        images = self.views.batch * self.engine.accumulate * self.steps
        skipped = sum((Counter(each) for each in gather_objects(dict(self.views.skipped))), Counter[str]())
        summary = {
            "steps": self.steps,
            "seconds": notes["seconds"],
            "processes": world_size(),
            "images_per_second": images / notes["training_seconds"],
            "data_wait": notes["waiting_seconds"] / notes["training_seconds"],
            "loss": last["loss"],
            "feature_std": last.get("feature_std"),
            "effective_rank": last.get("effective_rank"),
            "collapsed": bool(last.get("collapsed", False)),
            **notes["before"],
            **test,
            "skipped": skipped.total(),
            "overflows": notes["overflows"],
            "rollbacks": len(undone),
        }
        if skipped:
            report.say(f"left out, because they cannot be used: {told(skipped)}")
            summary["skipped_where"] = dict(skipped)
        self.export(folder)
        on_first(lambda: folder.write_json("summary.json", summary))
        report.table(f"{folder.path}, on held-out test data", summary)
        return summary

    def _end_step(
        self, folder: RunFolder, step: int, notes: dict[str, Any], interrupted: list[int], save: bool = False
    ) -> None:
        stopped = largest_over_ranks(interrupted[0] if interrupted else 0)
        if save or stopped:
            self._save(folder, step, notes)
        if stopped and step < self.steps:
            raise _preempted(stopped, f"after step {step}, with a checkpoint", folder)

    def start(self) -> None:
        """Hands the objective to the engine."""
        precision = autocast_dtype(self.precision, self.place.device)
        self.engine.start(self.objective, self.optimizer, self.schedule, self.place.device, precision)

    def step(
        self, step: Step, batches: Iterator[Views], folder: RunFolder
    ) -> tuple[StepOutput, dict[str, Tensor], int]:
        """One applied optimizer step and its hooks: its output, what hooks measured, times it was tried before."""
        applied, keys, overflows = None, [], 0
        while applied is None:
            views = next(batches)
            keys += views.keys
            try:
                output = self.engine(views)
                self.engine.backward(output)
                applied = self.engine.step(step)
            except NumericError as error:  # of all ranks: engines and hooks decide by what all have
                if isinstance(error, Overflow) and overflows < self.overflows:
                    keys, overflows = [], overflows + 1
                    continue
                batch = {"step": step.index + 1, "keys": [key for each in gather_objects(keys) for key in each]}
                on_first(partial(folder.write_json, "bad_batch.json", batch))
                raise NumericError(f"{error} The batch's keys are in {folder.path / 'bad_batch.json'}.") from error
        measured: dict[str, Tensor] = {}
        for hook in self.hooks:
            measured |= hook(self.objective, applied, step)
        return applied, measured, overflows

    def _before(self) -> dict[str, float]:
        """What the pictures themselves and the random start reach on the test data."""
        figures: dict[str, float] = {}
        for evaluation in self.evaluations:
            figures |= evaluation.baseline(self.place.device)
        return figures | {f"{name}_random_init": value for name, value in self.evaluate("test").items()}

    def evaluate(self, split: Split) -> dict[str, float]:
        """All evaluations' figures, computed in the training's precision."""
        dtype = autocast_dtype(self.precision, self.place.device)
        figures: dict[str, float] = {}
        with torch.autocast(self.place.device.type, dtype=dtype, enabled=dtype != torch.float32):
            for evaluation in self.evaluations:
                figures |= evaluation(self.objective.encoder, split, self.place.device)
        return figures

    def _save(self, folder: RunFolder, step: int, notes: dict[str, Any]) -> None:
        own = {"views": self.views.state_dict(), "hooks": [hook.state_dict() for hook in self.hooks]}
        tensors = {"|rng": torch.get_rng_state(), **self._own_buffers()}
        if self.place.device.type == "cuda":
            tensors["|cuda_rng"] = torch.cuda.get_rng_state(self.place.device)
        ranks = gather_objects(Rank(own, tensors))
        checkpoint = Checkpoint(step, self.engine.weights(), self.engine.state_dict(), notes, ranks)
        on_first(lambda: write(folder.checkpoints, checkpoint, self.keep, self._reach()))

    def _own_buffers(self) -> dict[str, Tensor]:
        """Buffers that are not rank 0's, such as statistics of batches that are not shared."""
        own = {}
        for name, buffer in self.objective.named_buffers() if world_size() > 1 else ():
            first = buffer.clone()
            dist.broadcast(first, src=0)
            if not torch.equal(first, buffer):
                own[name] = buffer.detach().cpu().clone()
        return own

    def _resume(self, checkpoint: Checkpoint) -> tuple[int, dict[str, Any]]:
        """What the engine has to be there for: the optimizer, and what each rank has of its own."""
        self.engine.load_state_dict(dict(checkpoint.optimizer))
        same = len(checkpoint.ranks) == world_size()
        mine = checkpoint.ranks[rank() if same else 0]
        hooks, views = mine.state["hooks"], mine.state["views"]
        if not same and "skipped" in views:  # what all ranks left out, kept by one
            counts = (Counter(each.state["views"]["skipped"]) for each in checkpoint.ranks if rank() == 0)
            views = {**views, "skipped": dict(sum(counts, Counter[str]())), "skipped_now": {}}
        if len(self.hooks) != len(hooks):
            raise CheckpointError(
                f"The checkpoint of step {checkpoint.step} has the state of {len(hooks)} hooks, this configuration "
                f"{len(self.hooks)}. Use the run's own config.gin."
            )
        for part, state in zip([self.views, *self.hooks], [views, *hooks], strict=True):
            try:
                part.load_state_dict(state)
            except (LookupError, TypeError) as error:
                raise CheckpointError(
                    f"The checkpoint of step {checkpoint.step} has another's state in {type(part).__name__}'s place "
                    f"({error!r}). Use the run's own config.gin."
                ) from error
        if same or rank() == 0:
            torch.set_rng_state(mine.tensors["|rng"])
            if self.place.device.type == "cuda" and "|cuda_rng" in mine.tensors:  # a CPU's checkpoint has none
                torch.cuda.set_rng_state(mine.tensors["|cuda_rng"], self.place.device)
        buffers = dict(self.objective.named_buffers())
        for name, value in mine.tensors.items():
            if name in buffers:
                buffers[name].copy_(value)
        return checkpoint.step, checkpoint.notes

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's weights, queues and temperatures.

        Raises:
            CheckpointError: they are another model's.
        """
        try:
            self.objective.load_state_dict(dict(checkpoint.model))
        except RuntimeError as error:
            raise CheckpointError(
                f"The checkpoint of step {checkpoint.step} is of another model than this configuration's: "
                f"{str(error).splitlines()[1].strip()} Use the run's own config.gin."
            ) from error

    def export(self, folder: RunFolder) -> None:
        """Writes every tower's trunk beside the checkpoints."""
        weights = self.engine.weights()

        def write_trunks() -> None:
            for name, content in trunks(self.objective, weights):
                folder.write(name, content)

        on_first(write_trunks)


class _Timed(Iterator[Views]):
    """Batches, and how long they were waited for."""

    def __init__(self, batches: Iterator[Views]):
        self.batches = batches
        self.seconds = 0.0

    def __next__(self) -> Views:
        clock = time.monotonic()
        views = next(self.batches)
        self.seconds += time.monotonic() - clock
        return views

    def taken(self) -> float:
        """Seconds since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def _numbers(output: StepOutput, measured: dict[str, Tensor]) -> dict[str, float]:
    terms = {f"loss/{name}": loss for name, loss in output.losses.items()} if len(output.losses) > 1 else {}
    losses = {name: mean_over_ranks(loss) for name, loss in {"loss": output.loss, **terms}.items()}
    return {name: float(value) for name, value in {**losses, **measured}.items()}


def _preempted(number: int, when: str, folder: RunFolder) -> Preempted:
    return Preempted(f"Stopped by {signal.Signals(number).name} {when}. Continue with --out {folder.path} --resume.")
