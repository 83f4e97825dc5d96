"""Writes data sets as WebDataset shards with an index: python tools/make_shards.py digits FOLDER."""

import argparse
import sys
from pathlib import Path

from cl.views.digits import write_digits


def main() -> int:
    """Returns 0, or 5 if the folder cannot be used."""
    parser = argparse.ArgumentParser(
        description="Writes a data set as WebDataset shards, one folder a split, each with an index.json that counts "
        "its samples. @Shards() reads them: bind Shards.path = 'FOLDER/train'."
    )
    parser.add_argument("data", choices=["digits"], help="digits: the built-in handwritten digits in colour scenes")
    parser.add_argument("folder", type=Path, help="where to write; must be empty or not there yet")
    chosen = parser.parse_args()
    try:
        if chosen.folder.exists() and any(chosen.folder.iterdir()):
            raise FileExistsError("it is not empty. Name a new folder")
        write_digits(chosen.folder)
    except OSError as error:
        print(f"Cannot write shards to {chosen.folder}: {error.strerror or error}.", file=sys.stderr)
        return 5
    print(f"Wrote {', '.join(sorted(path.name for path in chosen.folder.iterdir()))} to {chosen.folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
