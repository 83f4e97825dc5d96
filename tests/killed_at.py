"""What `--import` loads: kills rank 0 by signal 9 in front of an operation on a file.

KILLED_AT is `event path number`: an audit event, a pattern of the path, and which of those that match.
"""

import os
import re
import signal
import sys


def kill_at(event, pattern, number):
    """From now on."""
    left = [int(number)]

    def hook(name, arguments):
        if name == event and re.search(pattern, str(arguments[0])):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if os.environ.get("RANK") == "0" and "KILLED_AT" in os.environ:
    kill_at(*os.environ["KILLED_AT"].split())
