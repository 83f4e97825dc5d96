"""Runs gin/collapse beside its healthy twins, or the field's claims, and draws what came of it. See --help."""

import sys

from cl.laboratory.command import main

if __name__ == "__main__":
    sys.exit(main())
