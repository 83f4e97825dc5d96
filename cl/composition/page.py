"""The matrix as a page: what trains with what, and which rule refuses the rest."""

from collections import Counter
from collections.abc import Sequence

from cl import rules
from cl.composition.mixes import Mix, Outcome

HEAD = """# What goes with what

Every mix of a registered encoder, provider, loss, grouping and set of hooks (those that are needed, none, and each that
is not needed, or is there already, beside them), tried with linear networks on made-up data: it takes two finite steps
in which every weight, momentum copy, queue and centre moves, or a rule refuses it before data is opened. Written by
`python tools/composition.py`; a test holds it.
"""

ELSEWHERE = "(not of these parts: see tests/composition/test_rules_prevent.py)"
"""Said of a rule that refuses no mix."""


def page(tried: Sequence[tuple[Mix, Outcome]]) -> str:
    """Markdown: counts, a table of what trains, and the rules with how many mixes each refuses."""
    trained = [mix for mix, outcome in tried if outcome.rule is None and outcome.fault is None]
    faults = [(mix, outcome) for mix, outcome in tried if outcome.fault is not None]
    refused = len(tried) - len(trained) - len(faults)
    lines = [
        HEAD,
        f"{len(tried):,} mixes: {len(trained):,} train, {refused:,} are refused, {len(faults)} crash or learn nothing.",
        *(f"- {mix.name}: {outcome.fault}" for mix, outcome in faults),
        "",
        "## What trains",
        "",
        "Losses that train over a provider, with the hooks that are needed. In brackets: groupings, where not all do.",
        "",
        *_table(trained, tried),
        "",
        "## What is refused, and why",
        "",
        "| rule | mixes | for example |",
        "|---|---|---|",
    ]
    counts = Counter(outcome.rule for _, outcome in tried)
    sentences = {rule.__name__: rule.__doc__ or "" for rule in (*rules.RULES, rules.collapse)}
    sentences[""] = "A constructor refuses its arguments."
    for name, sentence in sentences.items():
        example = next(((mix, outcome) for mix, outcome in tried if outcome.rule == name), None)
        if example is not None:
            mix, outcome = example
            told = f"{mix.name.replace('|', '/')}: {outcome.message}"
            lines.append(f"| {name or 'constructors'}: {sentence.splitlines()[0]} | {counts[name]:,} | {told} |")
        elif name:
            lines.append(f"| {name}: {sentence.splitlines()[0]} | - | {ELSEWHERE} |")
    return "\n".join(lines) + "\n"


def _table(trained: Sequence[Mix], tried: Sequence[tuple[Mix, Outcome]]) -> list[str]:
    encoders = list(dict.fromkeys(mix.encoder.name for mix, _ in tried))
    providers = list(dict.fromkeys(mix.provider.name for mix, _ in tried))
    every = list(dict.fromkeys(mix.grouping.name for mix, _ in tried))
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for mix in trained:
        losses = cells.setdefault((mix.encoder.name, mix.provider.name), {})
        losses.setdefault(mix.loss.name[:-2], []).append(mix.grouping.name)
    shown = [name for name in providers if any(provider == name for _, provider in cells)]
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in encoders:
        row = tuple(_cell(cells.get((name, provider), {}), every) for provider in shown)
        alike.setdefault(row, []).append(name)
    lines = [f"| encoder | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    return lines + [f"| {'; '.join(names)} | {' | '.join(row)} |" for row, names in alike.items()]


def _cell(losses: dict[str, list[str]], every: Sequence[str]) -> str:
    said = []
    for loss, groupings in losses.items():
        those = list(dict.fromkeys(groupings))
        said.append(loss if len(those) == len(every) else f"{loss} ({', '.join(name[:-2] for name in those)})")
    return ", ".join(said) or "-"
