"""One contender in a process of its own.

Prints a JSON line when ready, one with the seconds of a pass for every number of passes that it reads, and at the end
of its input one with the memory that the passes took beyond the inputs, and of rounded products how far off they are.
"""

import json
import resource
import sys
import time

import torch

from cl.bench.memory import restart_peak, status


def main(case: str, name: str, rows: str, width: str, threads: str, limit: str) -> None:
    """Runs the protocol; `limit` is in bytes over what the process has when it is ready."""
    from cl.bench.contenders import CASES, LOW, OURS

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
    found: dict[str, float] = {"extra_bytes": max(status("VmHWM") - before, 0)}
    if name == LOW:
        value, *gradients = run()
        exact, *wanted = CASES[case].contenders[OURS](int(rows), int(width))()
        pairs = list(zip(gradients, wanted, strict=True))
        found["loss_error"] = float((value - exact).abs() / exact.abs())
        found["gradient_error"] = max(float((one - other).norm() / other.norm()) for one, other in pairs)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
