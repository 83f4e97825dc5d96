"""The component that CONTRIBUTING.md shows is complete and right."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent

CHECK = """
z0, z1 = (torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1) for _ in range(2))
z = torch.cat([z0, z1])
apart = [(z[i] - z[j]).square().sum() for i in range(10) for j in range(10) if i % 5 != j % 5]
expected = (-2.0 * torch.stack(apart)).exp().mean().log()
torch.testing.assert_close(Uniformity()(Contrast.pairs(z0, z1)), expected)
empty = Contrast(z0, torch.zeros(5, 3, dtype=torch.int64), pool=z0[:0], pool_ids=torch.zeros(0, 3, dtype=torch.int64))
assert Uniformity()(empty) == 0
"""


def test_the_component_of_the_guide_runs(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    start = text.index("    # cl/losses/uniformity.py")
    component = textwrap.dedent(text[start : text.index("It is found by itself", start)])
    program = tmp_path / "uniformity.py"
    program.write_text(component + CHECK)
    subprocess.run([sys.executable, program], check=True, cwd=ROOT)
