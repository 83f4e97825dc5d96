"""How many of a run's negatives are of the query's own label, and what they get of the softmax."""

import statistics
from pathlib import Path

import torch

from cl import wiring
from cl.contrast import GROUP, SAMPLE
from cl.losses.info_nce import InfoNCE
from cl.losses.temperature import inverse
from cl.train import Training
from cl.trained import open_run
from cl.views.groups import ByLabel
from cl.views.memory import MemoryViews

BATCHES = 10


@torch.no_grad()
def false_negatives(folder: Path) -> dict[str, float]:
    """Of a SimCLR run's queries and the keys of other samples, over ten batches.

    Returns 'false_share': keys of the query's own label among them, and of the softmax over them what these get, at the
    random start ('false_mass_random_init') and at the end ('false_mass').
    """
    config = wiring.read([folder / "config.gin"])
    torch.manual_seed(config.value("seed", 0))  # as the run did
    share, before = share_and_mass(config.build())
    _, after = share_and_mass(open_run(folder))
    return {"false_share": share, "false_mass_random_init": before, "false_mass": after}


@torch.no_grad()
def share_and_mass(training: Training) -> tuple[float, float]:
    """Of the keys of other samples: those of the query's label, and what they get of the softmax, both on average."""
    objective, source = training.objective.train(), training.views
    ((name, term),) = objective.terms.items()
    assert isinstance(source, MemoryViews) and isinstance(term.loss, InfoNCE), f"{name} is not SimCLR's"
    source.group = ByLabel()
    shares, masses = [], []
    for _, views in zip(range(BATCHES), source.iterate(training.place), strict=False):
        for contrast in term.provider(objective.encoder(views.made())[term.embedding]):
            assert contrast.pool is not None and contrast.pool_ids is not None
            other = contrast.q_ids[:, None, SAMPLE] != contrast.pool_ids[:, SAMPLE]
            false = other & (contrast.q_ids[:, None, GROUP] == contrast.pool_ids[:, GROUP])
            logits = contrast.q @ contrast.pool.T * inverse(term.loss.temperature)
            mass = logits.masked_fill(~other, -torch.inf).softmax(dim=1)
            shares.append((false.sum() / other.sum()).item())
            masses.append(mass[false].sum().item() / len(mass))
    return statistics.mean(shares), statistics.mean(masses)
