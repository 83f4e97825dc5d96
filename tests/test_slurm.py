"""The script for SLURM that docs/scale.md shows, with a stand-in for SLURM's commands on this host."""

import os
import re
import socket
import subprocess
import sys
import textwrap

import pytest
from test_processes import BIN, ROOT, SMALL, codes, losses

pytestmark = pytest.mark.alone

SRUN = """#!/bin/bash
for number in 0 1; do
    SLURM_PROCID=$number SLURM_LOCALID=$number SLURM_NTASKS=2 "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit ${code:-0}
"""


def script():
    text = (ROOT / "docs" / "scale.md").read_text()
    return textwrap.dedent(re.search(r"    #!/bin/bash\n(?:    .*\n)+", text)[0])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.slow
def test_the_script_starts_a_run_and_goes_on_with_it_when_it_is_queued_again(tmp_path):
    for name, content in {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\necho elsewhere\n"}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NODELIST": "here",
    }
    said = {"LOCAL_WORLD_SIZE=8": "LOCAL_WORLD_SIZE=2", "29500": free_port(), "gin/clip.gin": "gin/simclr.gin"}
    said["--out runs/clip"] = f"--gin {tmp_path}/small.gin --out {tmp_path}/run"
    shown = script()
    for old, new in said.items():
        assert old in shown
        shown = shown.replace(old, new)
    for steps, text in {3: shown.replace(" --resume", ""), 5: shown}.items():
        values = SMALL | {"cl.train.steps": steps}
        (tmp_path / "small.gin").write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
        (tmp_path / "job").write_text(text)
        subprocess.run(["bash", tmp_path / "job"], cwd=ROOT, env=environment, check=True, timeout=200)
        assert codes(tmp_path / "run") == {0: 0, 1: 0}
        assert sorted(losses(tmp_path / "run")) == list(range(1, steps + 1))
    assert "goes on after step 3" in (tmp_path / "run" / "train.log").read_text()
