"""torchvision's own transforms, one picture at a time: what the papers' code does, for pictures of any size."""

from collections.abc import Sequence

import gin
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import v2

from cl.components import Capability
from cl.views.augment_settings import check_settings, largest_kernel
from cl.views.groups import stable_hash
from cl.views.samples import Sample


@gin.register
class ReferenceAugment:
    """Random views of pictures; the parameters are `BatchAugment`'s and mean what torchvision means by them.

    `FusedAugment` has nearly the same distribution at a fraction of the time.

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
        self.size = size
        self.crop = crop
        self.ratio = ratio
        self.flip = flip
        self.jitter = jitter
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.gray = gray
        self.blur = blur
        self.sigma = sigma
        self.solarize = solarize
        check_settings(self)
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, crop, ratio, v2.InterpolationMode.BICUBIC, antialias=True),
                v2.RandomHorizontalFlip(flip),
                v2.RandomApply([v2.ColorJitter(brightness, contrast, saturation, hue)], jitter),
                v2.RandomGrayscale(gray),
                v2.RandomApply([v2.GaussianBlur(largest_kernel(size), sigma)], blur),
                v2.RandomSolarize(128, solarize),
            ]
        )

    def crops(self, samples: Sequence[Sample], seed: int, epoch: int, view: int) -> UInt8[Tensor, "b c s s"]:
        """View number `view` of each; a function of (seed, epoch, sample, view) alone."""
        views = []
        with torch.random.fork_rng(devices=[]):
            for sample in samples:
                # Not torch.manual_seed, which seeds the other devices' generators as well.
                torch.default_generator.manual_seed(stable_hash("view", *map(str, (seed, epoch, sample.sample, view))))
                views.append(self.transform(sample.image))
        return torch.stack(views)
