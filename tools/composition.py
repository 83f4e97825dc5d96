"""Tries every mix of components and writes docs/composition.md: python tools/composition.py."""

import logging
import sys
from pathlib import Path

import torch
from rich.progress import track

from cl.composition.mixes import mixes, outcome
from cl.composition.page import page

PAGE = Path(__file__).parent.parent / "docs" / "composition.md"


def main() -> int:
    """Returns 1 if a mix neither trains nor is refused."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    tried = [(mix, outcome(mix)) for mix in track(list(mixes()), description="mixes")]
    PAGE.write_text(page(tried))
    faults = [(mix, found) for mix, found in tried if found.fault is not None]
    for mix, found in faults:
        print(f"{mix.name}: {found.fault}")
    print(f"{len(tried):,} mixes, {len(faults)} faults; written to {PAGE}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
