"""One contender in a process of its own.

Prints a JSON line when ready, one with the seconds of a pass for every number of passes that it reads, and at the end
of its input one with the memory that the passes took beyond the inputs.
"""

import json
import resource
import sys
import time

import torch

from cl.bench.memory import restart_peak, status


def main(case: str, name: str, rows: str, width: str, threads: str, limit: str) -> None:
    """Runs the protocol; `limit` is in bytes over what the process has when it is ready."""
    from cl.bench.contenders import CASES

    torch.set_num_threads(int(threads))
    run = CASES[case].contenders[name](int(rows), int(width))
    most = status("VmData") + int(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    before = restart_peak()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        passes, start = int(line), time.perf_counter()
        for _ in range(passes):
            run()
        print(json.dumps({"seconds": (time.perf_counter() - start) / passes}), flush=True)
    print(json.dumps({"extra_bytes": max(status("VmHWM") - before, 0)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
