"""Runs an encoder over data: in pieces, in eval mode, without gradient. What every evaluation reads."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from cl.components import Encoder
from cl.distributed import gather_objects, rank, world_size
from cl.errors import NumericError
from cl.views.samples import DataSet, Samples


def extract(
    encoder: Encoder, data: Samples | DataSet, view: int, device: torch.device, chunk: int = 256
) -> Float[Tensor, "b f"]:
    """Trunk features of unaugmented pictures, float32, on `device`; `chunk` pictures at a time pass the network."""
    with evaluating(encoder):
        return _joined(lambda x: encoder.features(x, view), _pictures(data, device, chunk))


def embed(
    encoder: Encoder,
    data: Samples | DataSet | Int64[Tensor, "b t"],
    view: int,
    device: torch.device,
    chunk: int = 256,
) -> Float[Tensor, "b d"]:
    """Unit-norm float32 embeddings of unaugmented pictures or of token ids, on `device`."""
    inputs = (
        (tokens.to(device) for tokens in data.split(chunk))
        if isinstance(data, Tensor)
        else _pictures(data, device, chunk)
    )
    with evaluating(encoder):
        return F.normalize(_joined(lambda x: encoder.embed(x, view), inputs), dim=1)


@contextmanager
def evaluating(encoder: Encoder) -> Iterator[None]:
    """Eval mode and no gradient inside; afterwards every module is in the mode it was in, frozen ones too."""
    modes = [(module, module.training) for module in encoder.modules()] if isinstance(encoder, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def to_input(images: UInt8[Tensor, "b c h w"], device: torch.device) -> Float[Tensor, "b c h w"]:
    """Pictures as a tower takes them: float in [0, 1], channels last. The tower normalises."""
    return images.to(device, memory_format=torch.channels_last).float() / 255


def similarities(q: Float[Tensor, "m d"], k: Float[Tensor, "n d"]) -> Float[Tensor, "m n"]:
    """Inner products, in float32 under autocast too."""
    with torch.autocast(q.device.type, enabled=False):
        return einsum(q.float(), k.float(), "m d, n d -> m n")


def _pictures(data: Samples | DataSet, device: torch.device, chunk: int) -> Iterator[Tensor]:
    pieces = data.images.split(chunk) if isinstance(data, Samples) else (part.images for part in data.read(chunk))
    return (to_input(images, device) for images in pieces)


def _joined(run: Callable[[Tensor], Tensor], inputs: Iterable[Tensor]) -> Tensor:
    """All rows in order. Of w processes each runs every w-th piece, and all as many: under ZeRO-3 they run together.

    Raises:
        NumericError: a row is not finite.
    """
    waiting, w = iter(inputs), world_size()
    own: list[Tensor] = []
    count = 0
    while pieces := list(islice(waiting, w)):
        own.append(run(pieces[rank()] if rank() < len(pieces) else pieces[0][:1]).float())
        count += len(pieces)
    if w > 1:
        shares = gather_objects([rows.cpu() for rows in own])
        own = [shares[piece % w][piece // w].to(own[0].device) for piece in range(count)]
    rows = torch.cat(own)
    if not rows.isfinite().all():  # of them a classifier would make some class or other
        raise NumericError(
            "The features of held-out data are not finite: the network has diverged. Lower the rate and start anew, or "
            "name a checkpoint from before it in the file 'last'."
        )
    return rows
