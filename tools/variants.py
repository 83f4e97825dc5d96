"""Writes docs/variants.md from the gin files and the rows of docs/results.jsonl. See --help."""

import sys

from cl.variants import main

if __name__ == "__main__":
    sys.exit(main())
