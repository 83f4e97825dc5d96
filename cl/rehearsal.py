"""Two made-up samples through the transforms and the encoder, before any data is opened."""

import torch
from torch import Tensor

from cl.components import ViewSource
from cl.evaluation.features import evaluating
from cl.train import Training
from cl.types import Embeddings, Views
from cl.views.samples import Sample, Samples
from cl.views.transforms import SampleTransform

COUNT = 2
SIDES = (64, 80)
"""Of made-up pictures: a transform that makes the same of both knows its own size."""


def crops(source: ViewSource) -> tuple[Tensor, ...] | None:
    """What the encoder would be given of made-up samples, a tensor a view.

    None where that is not to be known: of a source without transforms, of one whose crops are as large as the data's
    pictures, and of one that takes no made-up samples.
    """
    transforms = getattr(source, "transforms", None)
    if not transforms:
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            small, large = ([_crop(each, view, side) for view, each in enumerate(transforms)] for side in SIDES)
        except Exception:
            return None
    if any(one.shape != other.shape for one, other in zip(small, large, strict=True)):
        return None
    return tuple(small)


def embedded(training: Training, views: tuple[Tensor, ...]) -> dict[str, Embeddings]:
    """What the encoder makes of them, as it evaluates. Raises whatever it raises."""
    ids = torch.arange(COUNT)
    batch = Views(views, tuple(range(len(views))), ids, ids, tuple(map(str, range(COUNT))))
    encoder = training.objective.encoder
    with torch.random.fork_rng(devices=[]), evaluating(encoder):
        return encoder(batch)


def _crop(transform: object, view: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(view)
    images = torch.randint(256, (COUNT, 3, side, side), generator=generator, dtype=torch.uint8)
    ids, keys, captions = torch.arange(COUNT), tuple(map(str, range(COUNT))), (("a picture",),) * COUNT
    if isinstance(transform, SampleTransform):
        each = [Sample(images[n], n, captions[n], keys[n], n) for n in range(COUNT)]
        crop = transform.crops(each, 0, 0, view)
    else:
        crop = transform(transform.prepare(Samples(images, ids, captions, keys, ids)), ids, 0, 0, view)  # type: ignore[operator]
    return crop / 255 if crop.dtype == torch.uint8 else crop
