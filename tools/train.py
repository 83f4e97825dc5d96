"""Trains what a gin file wires together: python tools/train.py --gin gin/moco_v2.gin."""

import sys

from cl.parents import end_with_launcher

end_with_launcher()  # before torch is imported, which takes seconds

from cl.launch import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
