"""Reads gin files, builds what they say and draws it as a tree. Opens no data.

    python tools/check_gin.py --gin gin/simclr.gin --param 'cl.train.steps = 100'

Exit code 0: the configuration is sound. 2: it is not, and the message says what, where, and what to do.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from cl import wiring
from cl.errors import ClError, ConfigError
from cl.launch import add_configuration, built


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_configuration(parser)
    parser.add_argument("--root", default="cl.train", metavar="NAME", help="the component to build (default: cl.train)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if not options.gin:
            raise ConfigError("Nothing to check: give a recipe with --gin, for example --gin gin/simclr.gin.")
        configuration = wiring.read(options.gin, options.param, options.imports, options.root)
        if options.root == "cl.train":
            built(configuration)
        else:
            configuration.build()
    except ClError as error:
        print(f"check_gin: {error}", file=sys.stderr)
        return error.code
    print(configuration.tree())
    return 0


if __name__ == "__main__":
    sys.exit(main())
