"""What the field says of batches, queues, temperatures and labels, tried on the built-in digits.

A claim names the arms that are compared and says which should be above which; the page says, seed by seed, whether they
were. A recipe's numbers are its own and not tuned for an arm.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cl import results
from cl.laboratory.false_negatives import false_negatives
from cl.laboratory.runs import Arm, Row, Rows

ROWS = Rows(results.ROOT / "docs" / "claims.jsonl")
PAGE = results.ROOT / "docs" / "claims.md"
SAMPLES = 38_144
"""That runs see which differ in their batch, to a batch: 35 % of SimCLR's."""
SEEDS = (0, 1, 2)
"""Run where nobody says which."""
ENOUGH = 3
"""Seeds of either side for a verdict: without any difference one in ten pairs would still be apart."""
HEAD = """# The field's claims, tried here

Each on the built-in digits, in runs of one to nine minutes: what holds at this size need not hold at another. The
figures are on test data, of the trunk's features; a dot is a seed, a dash their mean. *Held* means that the worst seed
of one was above the best of the other, *the contrary* the reverse: without any difference one pair in ten would be one
or the other at three seeds each. Written by `python tools/collapse_lab.py claims` from docs/claims.jsonl.
"""


class Side(NamedTuple):
    """What is compared: a figure of an arm, or what it has over that of another arm at the same seed."""

    arm: str
    figure: str
    less: str | None = None

    def values(self, rows: Mapping[str, Sequence[Row]]) -> list[float]:
        """One a seed."""
        base = {row["seed"]: row[self.figure] for row in rows.get(self.less or "", ())}
        mine = rows.get(self.arm, ())
        if self.less is None:
            return [row[self.figure] for row in mine]
        return [row[self.figure] - base[row["seed"]] for row in mine if row["seed"] in base]


@dataclass(frozen=True)
class Claim:
    """Something that the field says.

    Attributes:
        says: it, with where it is said.
        arms: what is compared, by what they are called.
        figures: of the rows that are drawn.
        above: which is to be above which.
        how: what a reader has to know of the arms.
    """

    says: str
    arms: Mapping[str, Arm]
    figures: tuple[str, ...]
    above: Sequence[tuple[Side, Side]]
    how: str


def _simclr(batch: int, steps: int | None = None) -> Arm:
    # The rate by the root of the batch (Chen et al. 2020, section B.1).
    rate = float(f"{1e-2 * math.sqrt(batch / 128):.3g}")
    params = (f"MemoryViews.batch = {batch}", f"AdamW.lr = {rate}")
    return Arm("simclr", params, steps or SAMPLES // batch, false_negatives)


def _moco(size: int, momentum: float) -> Arm:
    return Arm("moco_v2", (f"Queue.size = {size}", f"UpdateMomentum.momentum = {momentum}"), SAMPLES // 32)


def _clip(*params: str) -> Arm:
    return Arm("clip", params, share=1.0)


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


def _lost(name: str, share: str, figure: str) -> Side:
    return Side(f"{name}, {share} wrong", figure, f"{name}, 0% wrong")


def _queue(size: int, momentum: float) -> str:
    return f"{size:,} keys, momentum {momentum}"


_SPLITS = {"bank": "train", "validation": "validation", "test": "test"}
_ZERO_SHOT = "zero_shot", "recall_at_1_image_to_text", "recall_at_1_text_to_image"
_BATCHES = {batch: f"{batch} rows, {SAMPLES // batch:,} steps" for batch in (32, 64, 128, 256, 512)}
_STEPS = SAMPLES // 128
_EQUAL_STEPS = {batch: f"{batch} rows, {_STEPS} steps" for batch in (32, 128, 512)}

CLAIMS: Mapping[str, Claim] = {
    "batch": Claim(
        says="SimCLR gains from a larger batch at the same number of epochs (Chen et al. 2020, figure 9; less so where "
        "the rate goes by the batch's root, figure B.1). And at the same number of steps?",
        arms={name: _simclr(batch) for batch, name in _BATCHES.items()}
        | {_EQUAL_STEPS[batch]: _simclr(batch, _STEPS) for batch in (32, 512)},
        figures=("knn",),
        above=[
            (Side(names[more], "knn"), Side(names[fewer], "knn"))
            for names in (_BATCHES, _EQUAL_STEPS)
            for more, fewer in ((128, 32), (512, 128))
        ],
        how="About four epochs each, and then as many steps each; the rate goes by the batch's root. At equal epochs "
        "a larger batch has fewer steps, at equal steps more epochs. It always has more negatives, and more rows in "
        "batch norm's statistics: which of these two it is cannot be told from these runs.",
    ),
    "queue": Claim(
        says="MoCo's queue gives a small batch many negatives, and a longer one is better (He et al. 2020, figure 3).",
        arms={
            _queue(size, momentum): _moco(size, momentum)
            for size, momentum in ((64, 0.9), (256, 0.9), (1024, 0.9), (4096, 0.9), (64, 0.99), (4096, 0.99))
        },
        figures=("knn",),
        above=[(Side(_queue(4096, momentum), "knn"), Side(_queue(64, momentum), "knn")) for momentum in (0.99, 0.9)],
        how="Batches of 32, so that a step brings 64 keys, and 1,192 steps. The paper's momentum is 0.999, over a "
        "million steps; 0.9 is the recipe's, and 4,096 keys are then older than what it remembers.",
    ),
    "stale_keys": Claim(
        says="A queue needs a slow copy: with momentum 0 its keys are of networks that are gone, and training fails "
        "(He et al. 2020, section 4.1).",
        arms={
            _queue(size, momentum): _moco(size, momentum)
            for size, momentum in ((64, 0.0), (64, 0.9), (4096, 0.0), (4096, 0.9), (4096, 0.99))
        },
        figures=("knn",),
        above=[
            (Side(_queue(64, 0.0), "knn"), Side(_queue(4096, 0.0), "knn")),
            (Side(_queue(4096, 0.9), "knn"), Side(_queue(4096, 0.0), "knn")),
            (Side(_queue(4096, 0.99), "knn"), Side(_queue(4096, 0.0), "knn")),
        ],
        how="As above. 64 keys are those of the step before.",
    ),
    "false_negatives": Claim(
        says="Some negatives are false: of the query's own class (Chuang et al. 2020, figure 1). Their share is the "
        "class's, whatever the batch; what they get of the softmax should grow as features get better.",
        arms={name: _simclr(batch) for batch, name in _BATCHES.items()},
        figures=("false_share", "false_mass_random_init", "false_mass"),
        above=[
            (Side(name, "false_mass"), Side(name, other))
            for name in (_BATCHES[32], _BATCHES[128], _BATCHES[512])
            for other in ("false_mass_random_init", "false_share")
        ],
        how="The runs of SimCLR by batch. `false_share`: keys of other samples that have the query's digit; "
        "`false_mass`: what these get of the softmax over other samples' keys, at the random start and at the end.",
    ),
    "clip": Claim(
        says="CLIP learns both ways, from picture to text and back, and its temperature with them (Radford et al. "
        "2021, section 2.3). Is one way alone, or a fixed temperature, worse?",
        arms={
            "both ways, learned": _clip(),
            "one way, learned": _clip("InBatch.queries = (0,)"),
            "both ways, 0.07": _clip("InfoNCE.temperature = 0.07"),
            "both ways, 0.3": _clip("InfoNCE.temperature = 0.3"),
        },
        figures=_ZERO_SHOT,
        above=[
            (Side("both ways, learned", figure), Side(other, figure))
            for other in ("one way, learned", "both ways, 0.07", "both ways, 0.3")
            for figure in _ZERO_SHOT
        ],
        how="One way: pictures are the queries, the batch's texts the keys. The learned temperature starts at 0.07. "
        "Whole runs: after a third of them seeds differ more than these arms do.",
    ),
    "wrong_labels": Claim(
        says="Does SupCon bear wrong labels better than cross-entropy? (Khosla et al. 2020, sections 4.2 and 4.3, find "
        "it the sturdier one for corrupted pictures and other settings; of labels they say nothing.)",
        arms={
            f"{name}, {share:.0%} wrong": _labels(recipe, share)
            for share in (0.0, 0.2, 0.4)
            for name, recipe in (("SupCon", "supcon"), ("cross-entropy", "cross_entropy"))
        },
        figures=("knn", "linear_probe"),
        above=[
            (_lost("SupCon", share, figure), _lost("cross-entropy", share, figure))
            for share in ("20%", "40%")
            for figure in ("knn", "linear_probe")
        ],
        how="What is judged are the features: they are trained on labels of which a share is another digit's at "
        "random, and kNN's bank, the probe's labels and the test's are right. What is compared is how much is lost. "
        "The noise is mild, as each scan's eight renderings are mislabelled one by one, and most of them stay right. "
        "Cross-entropy is by cosines, on one view. Whole runs of 450 steps.",
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
    if min(len(above), len(below)) < ENOUGH:
        return "too few seeds"
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
        older = [row.get("fingerprint") != claim.arms[arm].fingerprint for arm, mine in rows.items() for row in mine]
        lines += ["", f"Runs of older code: {sum(older)} of {len(older)}.", ""]
        for above, below in claim.above:
            one, two = above.values(rows), below.values(rows)
            if one and two:
                lines.append(f"- {_sentence(above, below)}: {verdict(one, two)} ({_range(one)}; {_range(two)})")
        lines.append("")
    return "\n".join(lines)


def _sentence(above: Side, below: Side) -> str:
    if above.arm == below.arm:
        return f"{above.arm}: {above.figure} above {below.figure}"
    one, two = (f"{side.arm}{f' (less {side.less})' if side.less else ''}" for side in (above, below))
    return f"{above.figure}: {one} above {two}"


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
