"""torchvision's own transforms, one picture at a time: what the papers' code does, for pictures of any size."""

import gin
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms import v2

from cl.components import Capability
from cl.views.samples import Sample


@gin.register
class ReferenceAugment:
    """Random views of a picture; the parameters are `BatchAugment`'s and mean what torchvision means by them.

    Args:
        size: side of a view, in pixels.
        crop: range of a crop's share of the picture's area.
        ratio: range of a crop's width / height.
        flip: probability of a mirror image.
        jitter: probability that brightness, contrast, saturation and hue change, all together.
        brightness: as `torchvision.transforms.v2.ColorJitter`, with the three below.
        contrast: see there.
        saturation: see there.
        hue: see there.
        gray: probability of luma alone.
        blur: probability of a Gaussian blur, with a kernel of a tenth of the side.
        sigma: range of its standard deviation, in pixels of the view.
        solarize: probability that values of 0.5 and more are inverted.
    """

    needs: frozenset[Capability] = frozenset()

    def __init__(
        self,
        size: int,
        crop: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        jitter: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        gray: float = 0.2,
        blur: float = 0.5,
        sigma: tuple[float, float] = (0.1, 2.0),
        solarize: float = 0.0,
    ):
        kernel = max(3, size // 10 // 2 * 2 + 1)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, crop, ratio, v2.InterpolationMode.BICUBIC, antialias=True),
                v2.RandomHorizontalFlip(flip),
                v2.RandomApply([v2.ColorJitter(brightness, contrast, saturation, hue)], jitter),
                v2.RandomGrayscale(gray),
                v2.RandomApply([v2.GaussianBlur(kernel, sigma)], blur),
                v2.RandomSolarize(128, solarize),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def one(self, sample: Sample) -> Float[Tensor, "c s s"]:
        """A view in [0, 1]; draws from torch's generator, which the caller has seeded for this view."""
        picture: UInt8[Tensor, "c h w"] = sample.image
        return self.transform(picture)
