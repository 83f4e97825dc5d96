"""What the framework's loop costs over one written by hand: same network, data, augmentation, precision, optimizer."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from cl import rules, wiring
from cl.bench.intervals import median_interval
from cl.components import Step
from cl.encoders.towers import Towers
from cl.precision import autocast_dtype
from cl.run_folder import RunFolder
from cl.train import Training
from cl.views.memory import MemoryViews


def compare(recipe: Path, blocks: int, steps: int, params: list[str]) -> dict[str, object]:
    """Alternates `blocks` blocks of `steps` steps of either loop; the order within a pair alternates too."""
    ours, by_hand = _framework(_build(recipe, params)), _by_hand(_build(recipe, params))
    for loop in (ours, by_hand):
        _seconds(loop, steps)
    ratios = []
    for block in range(blocks):
        first, second = (ours, by_hand) if block % 2 else (by_hand, ours)
        times = {id(loop): _seconds(loop, steps) for loop in (first, second)}
        ratios.append(times[id(ours)] / times[id(by_hand)])
        print(f"block {block + 1}/{blocks}: framework / by hand = {ratios[-1]:.4f}", flush=True)
    median, low, high = median_interval(ratios)
    return {
        "recipe": str(recipe),
        "blocks": blocks,
        "steps_a_block": steps,
        "threads": torch.get_num_threads(),
        "median_ratio": round(median, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "bar": 1.03,
        "met": low <= 1.03,
    }


def main(recipe: Path, blocks: int, steps: int, params: list[str]) -> None:
    """Prints the comparison as JSON."""
    print(json.dumps(compare(recipe, blocks, steps, params), indent=1))


def _build(recipe: Path, params: list[str]) -> Training:
    torch.manual_seed(0)
    training: Training = wiring.read([recipe], params).build()
    rules.check(training)
    return training


def _seconds(loop: Iterator[None], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        next(loop)
    return time.perf_counter() - start


def _framework(training: Training) -> Iterator[None]:
    training.start()
    with tempfile.TemporaryDirectory() as out:
        folder = RunFolder(Path(out) / "run", resume=False)
        batches = training.views.iterate(training.place)
        index = 0
        while True:
            training.step(Step(index % training.steps, training.steps), batches, folder)
            index += 1
            yield


def _by_hand(training: Training) -> Iterator[None]:
    """SimCLR as one would write it, with the recipe's own trunk, head, augmentation and numbers."""
    views, encoder = training.views, training.objective.encoder
    assert isinstance(views, MemoryViews) and isinstance(encoder, Towers)
    device, dtype = training.place.device, autocast_dtype(training.precision, training.place.device)
    tower = encoder.to(device, memory_format=torch.channels_last).train().towers["image"]  # type: ignore[call-overload]
    augment = views.transforms[0]
    samples = views.data.load()
    images, ids = samples.images.to(device), samples.sample.to(device)
    optimizer = training.optimizer.build(encoder)
    epoch, b = 0, views.batch
    labels = torch.arange(2 * b, device=device).roll(b)
    while True:
        order = torch.randperm(len(images))
        for start in range(0, len(images) - b + 1, b):
            rows = order[start : start + b]
            x = torch.cat([augment(images[rows], ids[rows], 0, epoch, view) for view in (0, 1)])
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                z = tower.heads["z"](tower(x.contiguous(memory_format=torch.channels_last)))
            z = F.normalize(z.float(), dim=1)
            logits = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield
        epoch += 1
