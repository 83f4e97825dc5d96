"""The student's distribution against the teacher's."""

import gin
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cl.components import Capability
from cl.precision import wide
from cl.types import Contrast


@gin.register
class SelfDistillation(nn.Module):
    """Cross-entropy of a softmax with its teacher's (DINO, Caron et al. 2021, arXiv:2104.14294, equation 1).

        loss_i = -sum over d of softmax((k_i - centre) / teacher)_d  log softmax(q_i / student)_d

    Rows are scores of d prototypes. The teacher is a slow copy; a copy of the student's last step teaches nothing
    (their table 7). Two things more keep rows from collapsing, and each alone would bring it about: the
    centre, a moving mean of the teacher's rows that `UpdateCentre` writes, keeps one prototype from taking all; the
    teacher's lower temperature keeps all from being alike. All rows one point and the centre there, it is the uniform
    distribution's cross-entropy with softmax(point / student): log(prototypes) where that is uniform, else more.

    Args:
        dim: d, how many prototypes.
        student: temperature of the queries.
        teacher: temperature of the keys, below the student's.
    """

    provides: frozenset[Capability] = frozenset({"centre"})
    needs: frozenset[Capability] = frozenset({"paired", "momentum", "free length"})
    spreads = True

    centre: Float[Tensor, "d"]

    def __init__(self, dim: int, student: float = 0.1, teacher: float = 0.04):
        super().__init__()
        if not 0 < teacher < student:
            raise ValueError(f"SelfDistillation.teacher must lie in (0, student = {student}), got {teacher}")
        self.dim = dim
        self.student = student
        self.teacher = teacher
        self.register_buffer("centre", torch.zeros(dim))

    def forward(self, contrast: Contrast) -> Float[Tensor, ""]:
        """Mean over rows; float32 under autocast too.

        Raises:
            ValueError: no paired keys.
        """
        if contrast.paired is None:
            raise ValueError("SelfDistillation needs paired keys; PositivesOnly gives them")
        with torch.autocast(contrast.q.device.type, enabled=False):
            target = ((wide(contrast.paired) - self.centre) / self.teacher).softmax(dim=1)
            total = (target * (wide(contrast.q) / self.student).log_softmax(dim=1)).sum()
            return -total / max(len(target), 1)
