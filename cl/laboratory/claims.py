"""What the field says of batches, queues, temperatures and labels, tried on the built-in digits.

A claim names the arms that are compared and says which should be above which; the page says, seed by seed, whether they
were. A recipe's numbers are its own and not tuned for an arm.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cl import results, wiring
from cl.laboratory.runs import Arm, Row, Rows
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import inverse
from cl.train import Training
from cl.trained import open_run
from cl.types import GROUP, SAMPLE
from cl.views.groups import ByLabel
from cl.views.memory import MemoryViews

ROWS = Rows(results.ROOT / "docs" / "claims.jsonl")
PAGE = results.ROOT / "docs" / "claims.md"
SAMPLES = 38_144
"""That the runs see which differ in their batch: 35 % of SimCLR's."""
HEAD = """# The field's claims, tried here

Each on the built-in digits, in runs of about a minute: what holds at this size need not hold at another. The figures
are on test data, of the trunk's features; a dot is a seed, a dash their mean. *Held* means that the worst seed of one
was above the best of the other. Written by `python tools/collapse_lab.py claims` from docs/claims.jsonl.
"""

Side = tuple[str, str]
"""An arm and a figure of it."""


@dataclass(frozen=True)
class Claim:
    """Something that the field says.

    Attributes:
        says: it, with where it is said.
        arms: what is compared, by what they are called.
        figures: of the rows that are drawn.
        above: which is to be above which, and what that would say.
        how: what a reader has to know of the arms.
    """

    says: str
    arms: Mapping[str, Arm]
    figures: tuple[str, ...]
    above: Sequence[tuple[Side, Side]]
    how: str


@torch.no_grad()
def false_negatives(folder: Path) -> dict[str, float]:
    """Of a run's queries and the keys of other samples, over ten batches of two views.

    Returns 'false_share': keys of the query's own label among them, and of the softmax over them what these get, at the
    random start ('false_mass_random_init') and at the end ('false_mass').
    """
    start: Training = wiring.read([folder / "config.gin"]).build()
    share, before = _false_negatives(start)
    _, after = _false_negatives(open_run(folder))
    return {"false_share": share, "false_mass_random_init": before, "false_mass": after}


def _false_negatives(training: Training) -> tuple[float, float]:
    objective, source = training.objective.train(), training.views
    ((name, term),) = objective.terms.items()
    assert isinstance(source, MemoryViews) and isinstance(term.loss, InfoNCE), f"{name} is not SimCLR's"
    source.group = ByLabel()
    shares, masses = [], []
    for _, views in zip(range(10), source.iterate(training.place), strict=False):
        for contrast in term.provider(objective.encoder(views.made())[term.embedding]):
            assert contrast.pool is not None and contrast.pool_ids is not None
            other = contrast.q_ids[:, None, SAMPLE] != contrast.pool_ids[:, SAMPLE]
            false = other & (contrast.q_ids[:, None, GROUP] == contrast.pool_ids[:, GROUP])
            logits = contrast.q @ contrast.pool.T * inverse(term.loss.temperature)
            mass = logits.masked_fill(~other, -torch.inf).softmax(dim=1)
            shares.append((false.sum() / other.sum()).item())
            masses.append(mass[false].sum().item() / len(mass))
    return statistics.mean(shares), statistics.mean(masses)


def _simclr(batch: int) -> Arm:
    # The rate by the root of the batch (Chen et al. 2020, section B.1).
    rate = float(f"{1e-2 * math.sqrt(batch / 128):.3g}")
    params = (f"MemoryViews.batch = {batch}", f"AdamW.lr = {rate}")
    return Arm("simclr", params, SAMPLES // batch, false_negatives)


def _moco(size: int, momentum: float = 0.9) -> Arm:
    return Arm("moco_v2", (f"Queue.size = {size}", f"UpdateMomentum.momentum = {momentum}"), SAMPLES // 32)


def _labels(recipe: str, share: float) -> Arm:
    data = [f"Probe.{role} = @{split}/Digits()" for role, split in _SPLITS.items()]
    params = (
        "MemoryViews.data = @WrongLabels()",
        "WrongLabels.data = @train/Digits()",
        f"WrongLabels.share = {share}",
        "WrongLabels.classes = 10",
        "cl.train.evaluations = [@KNN(), @Probe()]",
    )
    return Arm(recipe, (*params, *data), 450)


_SPLITS = {"bank": "train", "validation": "validation", "test": "test"}
_ONE_WAY = "InBatch.queries = (0,)"
_RECALL = "recall_at_1_image_to_text", "recall_at_1_text_to_image"

CLAIMS: Mapping[str, Claim] = {
    "batch": Claim(
        says="SimCLR gains from a larger batch: more negatives (Chen et al. 2020, figure 9).",
        arms={f"{batch}": _simclr(batch) for batch in (32, 64, 128, 256, 512)},
        figures=("knn",),
        above=[(("128", "knn"), ("32", "knn")), (("512", "knn"), ("128", "knn"))],
        how=f"Rows of a batch; all runs see {SAMPLES:,} samples, the rate goes by the root of the batch.",
    ),
    "queue": Claim(
        says="MoCo's queue gives a small batch many negatives: a longer one is better (He et al. 2020, figure 3).",
        arms={
            "SimCLR": _simclr(32),
            **{f"{size:,} keys": _moco(size) for size in (64, 256, 1024, 4096)},
        },
        figures=("knn",),
        above=[
            (("256 keys", "knn"), ("64 keys", "knn")),
            (("4,096 keys", "knn"), ("64 keys", "knn")),
            (("1,024 keys", "knn"), ("SimCLR", "knn")),
        ],
        how=f"Batches of 32, so that a step brings 64 keys; {SAMPLES:,} samples; the copy's momentum is 0.9.",
    ),
    "stale": Claim(
        says="A queue needs a slow copy: with momentum 0 its keys are of networks that are gone, and a long queue does "
        "not train (He et al. 2020, section 4.1).",
        arms={f"{momentum}, {size:,}": _moco(size, momentum) for size in (64, 4096) for momentum in (0.0, 0.9)},
        figures=("knn",),
        above=[(("0.9, 4,096", "knn"), ("0.0, 4,096", "knn")), (("0.0, 64", "knn"), ("0.0, 4,096", "knn"))],
        how="The copy's momentum, and the keys of the queue; batches of 32.",
    ),
    "false": Claim(
        says="Some negatives are false: of the query's own class (Chuang et al. 2020, figure 1). A batch holds more of "
        "them the larger it is, but their share is the class's; what they get of the softmax grows as features get "
        "better.",
        arms={f"{batch}": _simclr(batch) for batch in (32, 64, 128, 256, 512)},
        figures=("false_share", "false_mass_random_init", "false_mass", "knn"),
        above=[(("128", "false_mass"), ("128", "false_share")), (("512", "false_mass"), ("512", "false_share"))],
        how="The runs of SimCLR by batch. `false_share`: keys of other samples that have the query's digit; "
        "`false_mass`: what these get of the softmax over other samples' keys, at the random start and at the end.",
    ),
    "clip": Claim(
        says="CLIP learns both ways, from picture to text and back, and its temperature (Radford et al. 2021, section "
        "2.3): one way alone, or a fixed temperature, should do worse.",
        arms={
            "both ways, learned": Arm("clip"),
            "one way, learned": Arm("clip", (_ONE_WAY,)),
            "both ways, 0.07": Arm("clip", ("InfoNCE.temperature = 0.07",)),
            "both ways, 0.3": Arm("clip", ("InfoNCE.temperature = 0.3",)),
        },
        figures=("zero_shot", *_RECALL),
        above=[
            (("both ways, learned", figure), (other, figure))
            for other in ("one way, learned", "both ways, 0.07", "both ways, 0.3")
            for figure in ("zero_shot", _RECALL[1])
        ],
        how="One way: pictures are the queries, the batch's texts the keys. The learned temperature starts at 0.07.",
    ),
    "labels": Claim(
        says="SupCon bears wrong labels better than cross-entropy does (Khosla et al. 2020, section 4.2, say so of "
        "corrupted pictures and of settings).",
        arms={
            f"{name}, {share:.0%} wrong": _labels(recipe, share)
            for share in (0.0, 0.2, 0.4)
            for name, recipe in (("SupCon", "supcon"), ("cross-entropy", "cross_entropy"))
        },
        figures=("knn", "linear_probe"),
        above=[
            ((f"SupCon, {share} wrong", figure), (f"cross-entropy, {share} wrong", figure))
            for share in ("0%", "20%", "40%")
            for figure in ("knn", "linear_probe")
        ],
        how="A share of the training labels is another digit's, at random; kNN's bank, the probe's labels and the "
        "test's are right. Cross-entropy is by cosines, on one view. Whole runs of 450 steps.",
    ),
}


def arms() -> dict[str, list[Arm]]:
    """Of every claim."""
    return {name: list(claim.arms.values()) for name, claim in CLAIMS.items()}


def run(arm: Arm, seed: int, threads: int) -> Row:
    """A row: a short run, evaluated at its end."""
    row, _ = arm.run(seed, threads, ["cl.train.evaluate_every = 0"])
    return row


def verdict(above: Sequence[float], below: Sequence[float]) -> str:
    """Whether the values of one, a seed each, are above those of the other."""
    if min(above) > max(below):
        return "**held**"
    if max(above) < min(below):
        return "**the contrary**"
    return "held in the mean only" if statistics.mean(above) > statistics.mean(below) else "did not hold"


def page(found: Mapping[str, Mapping[str, Sequence[Row]]]) -> str:
    """Markdown: what is said, what came of it, and all figures; of the rows by claim and arm."""
    lines = [HEAD]
    for name, claim in CLAIMS.items():
        rows = {arm: mine for arm, mine in found[name].items() if mine}
        lines += [
            f"## {name}",
            "",
            claim.says,
            "",
            claim.how,
            "",
            f"![{', '.join(claim.figures)}](claims_{name}.png)",
            "",
        ]
        lines += [f"| | seeds | {' | '.join(claim.figures)} |", "|---" * (2 + len(claim.figures)) + "|"]
        for arm, mine in rows.items():
            cells = [_range([row[figure] for row in mine]) for figure in claim.figures]
            lines.append(f"| {arm} | {len(mine)} | {' | '.join(cells)} |")
        lines.append("")
        for (above, figure), (below, other) in claim.above:
            if above in rows and below in rows:
                one, two = [row[figure] for row in rows[above]], [row[other] for row in rows[below]]
                same = figure == other
                what = f"{figure}, {above} above {below}" if same else f"{above}, {figure} above {other}"
                lines.append(f"- {what}: {verdict(one, two)} ({_range(one)}; {_range(two)})")
        lines.append("")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(f"{end(values):.3f}" for end in (min, max)))


def draw(found: Mapping[str, Mapping[str, Sequence[Row]]], folder: Path) -> None:
    """A picture a claim: an axis a figure, a dot a seed, a dash the mean."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    for name, claim in CLAIMS.items():
        rows = {arm: mine for arm, mine in found[name].items() if mine}
        size = (max(3.0, 0.8 * len(rows) + 1.2) * len(claim.figures), 3.4)
        picture, axes = pyplot.subplots(1, len(claim.figures), figsize=size, squeeze=False)
        for axis, figure in zip(axes[0], claim.figures, strict=True):
            _dots(axis, {arm: [row[figure] for row in mine] for arm, mine in rows.items()})
            axis.set_title(figure.replace("_", " "), fontsize=9)
        picture.tight_layout()
        picture.savefig(folder / f"claims_{name}.png", dpi=80)
        pyplot.close(picture)


def _dots(axis: Any, values: Mapping[str, Sequence[float]]) -> None:
    for place, mine in enumerate(values.values()):
        axis.plot([place] * len(mine), mine, "o", color="C0", markersize=4)
        axis.plot([place - 0.25, place + 0.25], [statistics.mean(mine)] * 2, color="black", linewidth=1.2)
    axis.set_xticks(range(len(values)), list(values), rotation=30, ha="right", fontsize=8)
    axis.grid(axis="y", linewidth=0.3)


def write() -> None:
    """Page and pictures, from the rows."""
    found = {name: {arm: ROWS.of(each) for arm, each in claim.arms.items()} for name, claim in CLAIMS.items()}
    PAGE.write_text(page(found))
    draw(found, PAGE.parent)
