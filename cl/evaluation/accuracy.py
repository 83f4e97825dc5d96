"""Share of right answers."""

from jaxtyping import Int64
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from cl.errors import DataError
from cl.views.samples import Samples


def accuracy(predicted: Int64[Tensor, "b"], labels: Int64[Tensor, "b"]) -> float:
    """Share of samples whose predicted class is their label (micro average); in [0, 1]."""
    classes = 1 + int(max(predicted.max(), labels.max(), 1))
    return float(multiclass_accuracy(predicted, labels.to(predicted.device), num_classes=classes, average="micro"))


def labels_of(samples: Samples) -> Int64[Tensor, "b"]:
    """The samples' labels, all of which must be there."""
    missing = (samples.label < 0).nonzero().flatten().tolist()
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} samples have no label, the first is {samples.keys[missing[0]]!r}; "
            "an evaluation by label needs one for every sample: leave these out of its data sets."
        )
    return samples.label
