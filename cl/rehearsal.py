"""A few made-up samples through the transforms and the encoder, before any data is opened."""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cl.components import Encoder, ViewSource, is_ours
from cl.encoders.recomputed import buffers_kept
from cl.evaluation.features import evaluating
from cl.precision import autocast_dtype
from cl.train import Training
from cl.types import Embeddings, Views
from cl.views.memory import MemoryViews
from cl.views.samples import DataSet, Sample, Samples
from cl.views.stream import StreamViews
from cl.views.transforms import BatchTransform, SampleTransform

logger = logging.getLogger(__name__)

FEW, MANY = 2, 64
"""Samples that are made up, and how many for networks that cannot compute with so few."""
SIDES = (4, 16)
"""Of made-up pictures: a transform that makes the same of both knows its own size."""


def crops(source: ViewSource, count: int = FEW) -> list[Tensor] | None:
    """What the encoder would be given of made-up samples, a tensor a view; copies of the transforms make it.

    None where that is not to be known: of sources and data sets that are not ours, whose pictures may be anything, and
    of transforms that keep the size of the data's pictures or take no made-up ones.
    """
    if not isinstance(source, MemoryViews | StreamViews) or not _is_rgb(source.data):
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            transforms = copy.deepcopy(source.transforms)
            small, large = ([_crop(each, view, count, side) for view, each in enumerate(transforms)] for side in SIDES)
        except Exception as error:
            logger.info("views and networks were not tried on made-up samples: %s: %s", type(error).__name__, error)
            return None
    known = all(one.shape == other.shape for one, other in zip(small, large, strict=True))
    return small if known else None


def embedded(training: Training, views: Sequence[Tensor], trains: bool = False) -> dict[str, Embeddings]:
    """What the encoder makes of them as it evaluates, or trains; nothing of the run changes. Raises what it raises."""
    encoder, device = training.objective.encoder, torch.device("cpu")
    if isinstance(encoder, nn.Module):
        device = next((parameter.device for parameter in encoder.parameters()), device)
    dtype = autocast_dtype(training.precision, device)
    ids = torch.arange(len(views[0]), device=device)
    batch = Views(tuple(view.to(device) for view in views), tuple(range(len(views))), ids, ids)
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    mode = _training(encoder) if trains else evaluating(encoder)
    with torch.random.fork_rng(devices=[]), buffers_kept(training.objective), mode, autocast:
        return encoder(batch)


@contextmanager
def _training(encoder: Encoder) -> Iterator[None]:
    """Train mode inside, as an engine's, but no gradient."""
    with evaluating(encoder):  # which puts back what was
        if isinstance(encoder, nn.Module):
            encoder.train()
        yield


def _is_rgb(data: DataSet) -> bool:
    """Whether its pictures are RGB for sure: it is ours, and so is what it wraps."""
    inner = getattr(data, "data", None)
    return is_ours(type(data)) and (inner is None or _is_rgb(inner))


def _crop(transform: SampleTransform | BatchTransform, view: int, count: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(view)
    images = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    keys, captions = tuple(map(str, range(count))), tuple((f"picture {n}",) for n in range(count))
    if isinstance(transform, SampleTransform):
        crop = transform.crops([Sample(images[n], n, captions[n], keys[n], n) for n in range(count)], 0, 0, view)
        return crop / 255 if crop.dtype == torch.uint8 else crop
    ids = torch.arange(count)
    return transform(transform.prepare(Samples(images, ids, captions, keys, ids)), ids, 0, 0, view)
