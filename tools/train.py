"""Trains what a gin file wires together: python tools/train.py --gin gin/moco_v2.gin."""

import sys

from cl.launch import main

if __name__ == "__main__":
    sys.exit(main())
