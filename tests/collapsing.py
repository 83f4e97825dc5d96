"""A hook of a user's own: it says at one step that the run collapsed, for as long as the rate is the first one."""

import os
import signal

import gin
import torch

from cl.errors import RollBack


@gin.register
class Collapsing:
    """Healthy until `healthy` steps, known to be collapsed at `noticed`, until the rate is `fine` of the first."""

    needs = frozenset()
    reach = 5

    def __init__(self, noticed=8, healthy=5, fine=0.5, rollbacks=3, stopped=False):
        self.noticed = noticed
        self.healthy = healthy
        self.fine = fine
        self.rollbacks = rollbacks
        self.stopped = stopped

    def __call__(self, objective, output, step):
        if step.index + 1 == self.noticed and step.rate > self.fine:
            if self.stopped:
                os.kill(os.getpid(), signal.SIGTERM)
            raise RollBack("It all fell together.", self.healthy, 0.5, self.rollbacks)
        return {"rate": torch.tensor(step.rate)}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
