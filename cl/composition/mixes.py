"""All mixes, and what becomes of each."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cl import rules
from cl.components import Encoder, Loss, NegativeProvider, PostStepHook, Step
from cl.composition.parts import Choice, choices
from cl.composition.toys import BATCH, Noise, Tokens, Toys
from cl.encoders.towers import Towers
from cl.engines.local import LocalEngine
from cl.errors import ConfigError
from cl.objective import Objective, Term
from cl.optim.schedules import Constant
from cl.optim.sgd import SGD
from cl.run_folder import RunFolder
from cl.train import Training
from cl.views.groups import Grouping
from cl.views.memory import MemoryViews

STEPS = 2


@dataclass(frozen=True)
class Mix:
    """One cell: what it is made of, by name, and how to build it."""

    encoder: Choice
    provider: Choice
    loss: Choice
    grouping: Choice
    hooks: tuple[Choice, ...]

    @property
    def name(self) -> str:
        """As a person reads it."""
        hooks = " + ".join(hook.name for hook in self.hooks) or "no hooks"
        return " | ".join([*(each.name for each in (self.encoder, self.provider, self.loss, self.grouping)), hooks])

    def build(self) -> Training:
        """The training, which has opened no data.

        Raises:
            ConfigError: a constructor refuses.
        """
        torch.manual_seed(0)
        try:
            encoder, provider, loss = self.encoder.build(), self.provider.build(), self.loss.build()
            objective = Objective(encoder, {"only": Term(provider, loss)})
        except ValueError as error:
            raise ConfigError(str(error)) from error
        second = Tokens() if encoder.modalities > 1 else Noise()
        views = MemoryViews(Toys(), BATCH, [Noise(), second], self.grouping.build())
        hooks = [hook.build() for hook in self.hooks]
        return Training(objective, views, SGD(0.1), Constant(), LocalEngine(), STEPS, hooks, precision="float32")


def mixes() -> Iterator[Mix]:
    """All of them: hooks are those that are needed, none, and those that are needed with one that is not, or again."""
    plain = choices(Encoder, {Towers: []})
    encoders = _both(plain, choices(Encoder, {Towers: plain}))
    unwrapped = choices(NegativeProvider, {NegativeProvider: []})
    providers = _both(unwrapped, choices(NegativeProvider, {NegativeProvider: unwrapped}))
    losses, groupings = choices(Loss, {}), choices(Grouping, {})
    hooks = [(hook, hook.build().needs) for hook in choices(PostStepHook, {})]
    provided = {choice: _provides(choice) for choice in (*encoders, *providers, *losses)}
    for parts in itertools.product(encoders, providers, losses):
        sets = _hook_sets(frozenset().union(*(provided[part] for part in parts)), hooks)
        for grouping, chosen in itertools.product(groupings, sets):
            yield Mix(*parts, grouping, chosen)


def _both(plain: Sequence[Choice], wrapped: Sequence[Choice]) -> list[Choice]:
    return list({choice.name: choice for choice in (*plain, *wrapped)}.values())


def _hook_sets(provided: frozenset[Any], hooks: Sequence[tuple[Choice, frozenset[Any]]]) -> list[tuple[Choice, ...]]:
    needed = tuple(hook for hook, needs in hooks if needs and needs <= provided)
    wrong = [(*needed, hook) for hook, needs in hooks if not needs <= provided]
    twice = [(*needed, hook) for hook in needed]
    return list(dict.fromkeys([needed, (), *wrong, *twice]))


def _provides(choice: Choice) -> frozenset[Any]:
    try:
        return choice.build().provides
    except ValueError:  # what it is in is refused whatever the hooks
        return frozenset()


@dataclass(frozen=True)
class Outcome:
    """What became of a mix.

    Attributes:
        rule: that refused it; None: it trained; "": a constructor did.
        message: of the refusal.
        fault: what went wrong in a mix that no rule refuses; None: nothing.
    """

    rule: str | None = None
    message: str = ""
    fault: str | None = None


def outcome(mix: Mix) -> Outcome:
    """Builds a mix, checks it, and trains it for two steps if no rule refuses."""
    try:
        training = mix.build()
    except ConfigError as error:
        return Outcome("", str(error))
    for rule in (*rules.RULES, rules.collapse):
        for message in rule(training):
            return Outcome(rule.__name__, message)
    return Outcome(fault=_fault(training))


def _fault(training: Training) -> str | None:
    """What is wrong with two steps: a crash, a loss that is not finite, a weight, copy, queue or centre that stays."""
    objective = training.objective
    with tempfile.TemporaryDirectory() as folder:
        try:
            training.start()
            before = {name: value.clone() for name, value in objective.state_dict().items()}
            batches, run = training.views.iterate(training.place), RunFolder(Path(folder) / "run", resume=False)
            for index in range(STEPS):
                output, *_ = training.step(Step(index, STEPS), batches, run)
                if not torch.isfinite(output.loss):
                    return f"step {index + 1}: the loss is {output.loss:g}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    matrices = {name for name, parameter in objective.named_parameters() if parameter.ndim > 1}
    state = {name for name, _ in objective.named_buffers() if name.endswith((".ring.embeddings", ".centre"))}
    after = objective.state_dict()
    still = sorted(name for name in matrices | state if torch.equal(after[name], before[name]))
    return f"not trained: {', '.join(still)}" if still else None
