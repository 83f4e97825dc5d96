"""What can go wrong, and the exit code each kind has. One paragraph a message: what, where, what to do."""


class ClError(Exception):
    """An error a person can act on. `tools/train.py` prints it without a traceback and exits with `code`."""

    code = 1
    shared = True
    """Whether all processes of a run come to it, so that one of them need say it."""


class ConfigError(ClError):
    """The configuration is wrong. Raised before any data is opened."""

    code = 2


class DataError(ClError):
    """A shard, an index or a sample is wrong or missing."""

    code = 3
    shared = False


class NumericError(ClError):
    """A loss that is not finite, or a collapse when asked to stop at one."""

    code = 4


class Overflow(NumericError):
    """A gradient that is not finite, of a loss that is. The step was left out, and its gradients are gone."""


class RollBack(NumericError):
    """A collapse to be undone: the run is to go on from an earlier checkpoint.

    Args:
        what: happened.
        healthy: applied steps at which nothing was wrong yet.
        rate: factor on the learning rate from there on.
        most: how often this may happen in a run.
    """

    def __init__(self, what: str, healthy: int, rate: float, most: int):
        super().__init__(what, healthy, rate, most)  # all of them: it is handed from process to process
        self.what = what
        self.healthy = healthy
        self.rate = rate
        self.most = most

    def __str__(self) -> str:
        return self.what


class CheckpointError(ClError):
    """A checkpoint that cannot be written or read, or an output folder that cannot be used."""

    code = 5


class PeerError(ClError):
    """Another process was lost or timed out."""

    code = 6
    shared = False


class Preempted(ClError):
    """Asked to stop by a signal; a checkpoint was written, if there was a step."""

    code = 143
