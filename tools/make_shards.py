"""Writes data sets as WebDataset shards with an index, and indexes shards that others wrote."""

import sys

from cl.make_shards import main

if __name__ == "__main__":
    sys.exit(main())
