"""Runs gin/collapse beside its healthy twins and draws docs/collapse.png. See --help."""

import sys

from cl.collapse_lab import main

if __name__ == "__main__":
    sys.exit(main())
