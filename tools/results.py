"""Measures every recipe of the README's table; only what has no valid row is run. See --help."""

import sys

from cl.results import main

if __name__ == "__main__":
    sys.exit(main())
