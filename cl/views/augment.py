"""Augmentation of whole batches of small pictures, on whichever device they are.

Crop, flip, rotation and shear compose into one affine map in space, applied with one bilinear resampling. Brightness,
contrast, saturation, hue and gray are all affine in colour and compose into one 3x4 matrix a picture. A Gaussian blur
is one matrix along either side.

Departures from torchvision's RandomResizedCrop, ColorJitter, RandomGrayscale, GaussianBlur and RandomSolarize, which
have the same parameters:

- Resampling is bilinear between the four nearest pixels, without anti-aliasing: meant for pictures that are at most
  about twice as large as their views.
- A crop that would be wider or higher than allowed is cut to what is allowed rather than drawn again.
- The colour operations come in the fixed order brightness, contrast, saturation, hue, gray, not in a random one, and
  nothing is clipped between them: values are clamped to [0, 1] once, before the blur.
- Hue turns the chroma plane of YIQ, which keeps luma; torchvision turns the hue of HSV, which keeps the value.
- A blur's kernel is not cut off, and at the border it is renormalised instead of reflecting the picture.
"""

from collections.abc import Sequence
from math import log, pi

import gin
import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int64, Num
from torch import Tensor

from cl.components import Capability
from cl.views.augment_settings import check_settings
from cl.views.colour import colour_map, drawn_colours
from cl.views.random import uniforms
from cl.views.samples import Samples

_DRAWS = 16


@gin.register
class BatchAugment:
    """Random views of pictures; `b c h w` to `b c size size`, float32 in [0, 1], not normalised.

    What is random is a function of (seed, epoch, sample, view) alone. Probabilities are per picture.

    Args:
        size: side of a view, in pixels.
        crop: range of a crop's area, as a share of the picture's. Above 1 the view reaches past the border, where the
            outermost pixels repeat.
        ratio: range of a crop's width / height, drawn uniformly in its logarithm.
        flip: probability of a mirror image.
        rotate: largest rotation to either side, in degrees, about the crop's centre.
        shear: largest slant to either side, in degrees, as torchvision's RandomAffine has it.
        jitter: probability that brightness, contrast, saturation and hue change, all together.
        brightness: a factor from [max(0, 1 - brightness), 1 + brightness].
        contrast: a factor about the view's mean luma, from the same range.
        saturation: a factor about each pixel's luma, from the same range.
        hue: largest turn to either side, in full turns: 0.5 is any hue.
        gray: probability of luma alone.
        blur: probability of a Gaussian blur.
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
        rotate: float = 0.0,
        shear: float = 0.0,
        jitter: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        gray: float = 0.2,
        blur: float = 0.0,
        sigma: tuple[float, float] = (0.1, 2.0),
        solarize: float = 0.0,
    ):
        self.size = size
        self.crop = crop
        self.ratio = ratio
        self.flip = flip
        self.rotate = rotate
        self.shear = shear
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
        if not 0 <= rotate <= 180:
            raise ValueError(f"BatchAugment.rotate is in degrees: from 0 to 180, got {rotate}")
        if not 0 <= shear < 90:
            raise ValueError(f"BatchAugment.shear is in degrees: from 0 to below 90, got {shear}")

    def prepare(self, samples: Samples) -> Tensor:
        """The pictures, as they are."""
        return samples.images

    def __call__(
        self, images: Num[Tensor, "b c h w"], sample: Int64[Tensor, "b"], seed: int, epoch: int, view: int
    ) -> Float[Tensor, "b c s s"]:
        """View number `view` of pictures that are uint8, or float in [0, 1]."""
        u = uniforms(seed, epoch, sample, view, _DRAWS).unbind(dim=1)
        x = images / 255 if images.dtype == torch.uint8 else images.float()
        x = self._resample(x, (*u[:6], u[15]))
        x = self._recolour(x, u[6:12])
        blur, sigma, solarize = u[12:15]
        if self.blur > 0:
            low, high = self.sigma
            # Only rows that are blurred at all: half the work at the usual probability of a half.
            blurred = (blur < self.blur).nonzero().squeeze(1)
            x.index_copy_(0, blurred, gaussian_blur(x[blurred], low + (high - low) * sigma[blurred]))
        if self.solarize > 0:
            x = torch.where((solarize < self.solarize)[:, None, None, None], 0.5 - (x - 0.5).abs(), x)
        return x

    def _resample(self, x: Tensor, draws: Sequence[Tensor]) -> Tensor:
        area, ratio, left, top, flip, turn, slant = draws
        h, w = x.shape[-2:]
        area = h * w * (self.crop[0] + (self.crop[1] - self.crop[0]) * area)
        low, high = (log(bound) for bound in self.ratio)
        root = ((low + (high - low) * ratio) / 2).exp()
        most = max(1.0, self.crop[1] ** 0.5)
        crop_w, crop_h = (area.sqrt() * root).clamp(max=most * w), (area.sqrt() / root).clamp(max=most * h)
        # The crop lies anywhere inside the picture, or, where it is larger, anywhere around it.
        x0, y0 = (w - crop_w) * (left - 0.5), (h - crop_h) * (top - 0.5)
        angle = (2 * turn - 1) * (self.rotate * pi / 180)
        cos, sin, mirror = angle.cos(), angle.sin(), 1 - 2 * (flip < self.flip).float()
        lean = ((2 * slant - 1) * (self.shear * pi / 180)).tan()
        # Places in the picture as complex numbers, in halves of its sides: what half a view is, and its middle.
        right = torch.complex(cos * crop_w * mirror / w, sin * crop_w * mirror / h)
        down = torch.complex((cos * lean - sin) * crop_h / w, (sin * lean + cos) * crop_h / h)
        middle = torch.complex(2 * x0 / w, 2 * y0 / h)
        at = (2 * torch.arange(self.size, device=x.device) + 1) / self.size - 1
        columns, rows = at * right[:, None] + middle[:, None], at * down[:, None]
        grid = torch.view_as_real(columns[:, None, :] + rows[:, :, None])
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _recolour(self, x: Tensor, draws: Sequence[Tensor]) -> Tensor:
        matrix, offset = colour_map(x.mean(dim=(2, 3)), *drawn_colours(self, draws))
        pixels = torch.baddbmm(offset, matrix, x.flatten(2))
        return pixels.clamp_(0, 1).view_as(x)


def gaussian_blur(x: Float[Tensor, "b c h w"], sigma: Float[Tensor, "b"]) -> Float[Tensor, "b c h w"]:
    """Each picture blurred with its own standard deviation, in pixels; 0 leaves it as it is."""
    h, w = x.shape[-2:]
    rows = _smoothing(h, sigma)
    columns = rows if w == h else _smoothing(w, sigma)
    x = einsum(x, columns, "b c h w, b v w -> b c h v")
    return einsum(x, rows, "b c h w, b v h -> b c v w")


def _smoothing(side: int, sigma: Tensor) -> Tensor:
    at = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    distance = (at[:, None] - at) ** 2
    # From below a twentieth of a pixel the neighbours' weight is nothing anyway; e^-80 is nothing, too, but not a
    # denormal number, with which processors are slow.
    kernel = (-distance / (2 * sigma.clamp(min=0.05) ** 2)[:, None, None]).clamp(min=-80).exp()
    return kernel / kernel.sum(dim=-1, keepdim=True)
