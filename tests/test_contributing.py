"""The component that CONTRIBUTING.md shows is complete and right."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent

CHECK = """
z0, z1 = (torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1) for _ in range(2))
z = torch.cat([z0, z1])
apart = [[(z[i] - z[j]).square().sum() for j in range(10) if i % 5 != j % 5] for i in range(10)]
expected = torch.stack([(-2.0 * torch.stack(row)).exp().mean().log() for row in apart]).mean()
whole = Contrast.pairs(z0, z1)
torch.testing.assert_close(Uniformity()(whole), expected)
ranks = [Contrast(z[rows], whole.q_ids[rows], pool=z, pool_ids=whole.q_ids) for rows in (slice(5), slice(5, 10))]
torch.testing.assert_close(torch.stack([Uniformity()(each) for each in ranks]).mean(), expected)
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
