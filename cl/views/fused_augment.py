"""Augmentation of single pictures of any size, in a loader's process, several times faster than torchvision's."""

from collections.abc import Sequence
from math import ceil

import cv2
import gin
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize_image

from cl.components import Capability
from cl.views.augment_settings import check_settings, largest_kernel
from cl.views.colour import colour_map, drawn_colours
from cl.views.crop_boxes import DRAWS, crop_boxes
from cl.views.random import uniforms
from cl.views.samples import Sample


@gin.register
class FusedAugment:
    """Random views of pictures; the parameters are `ReferenceAugment`'s.

    As there: the distribution of crops (`cl.views.crop_boxes`), their resizing, which is torchvision's antialiased
    bicubic to the bit, and how often each operation is applied. Blurred values differ by at most 2 / 255, as the kernel
    is cut at three standard deviations as well.

    Departures, all of them colour's, which is one 3x4 matrix a view (`cl.views.colour`):

    - Values are clipped once, after all four operations, where torchvision clips and rounds after each.
    - Hue turns the chroma plane of YIQ instead of HSV's hue. Colours drawn at random turn by 0.101 on average where
      torchvision's turn by 0.098 (`hue` 0.2); luma stays (mean change 0.001 against 0.061) and HSV's value does not
      (0.069 against 0). Pictures of gray stay gray.
    - Of SimCLR's views (crop from 0.08, jitter 0.8, 0.8, 0.8, 0.2) of scikit-learn's two photographs, 5,000 of each by
      either class: mean luma 0.530 against 0.522 and 0.328 against 0.309, its standard deviation over views 2 and 5 %
      larger; contrast 0 and 2 %, chroma 4 and 8 %, edges 1 and 6 % stronger; channels at 0 or 1: 15.7 against 9.3 % and
      12.8 against 10.2 %.

    Args:
        size: side of a view, in pixels.
        crop: range of a crop's share of the picture's area.
        ratio: range of a crop's width / height.
        flip: probability of a mirror image.
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

    def crops(self, samples: Sequence[Sample], seed: int, epoch: int, view: int) -> UInt8[Tensor, "b c s s"]:
        """View number `view` of each, laid out with channels last; a function of (seed, epoch, sample, view) alone."""
        pictures = [sample.image.permute(1, 2, 0).numpy() for sample in samples]
        ids = torch.tensor([sample.sample for sample in samples])
        # All but the crop's draws are those of `BatchAugment`.
        u = uniforms(seed, epoch, ids, view, 16 + DRAWS)
        flip, (blur, sigma, solarize) = u[:, 4].numpy(), u[:, 12:15].T.numpy()
        views = np.empty((len(samples), self.size, self.size, 3), np.uint8)
        sizes = np.array([picture.shape[:2] for picture in pictures], np.float64)
        boxes = crop_boxes(sizes, u[:, 16:].double().numpy(), self.crop, self.ratio)
        for out, picture, box, mirrored in zip(views, pictures, boxes.tolist(), flip < self.flip, strict=True):
            resized = _resized(picture, box, self.size)
            if mirrored:
                cv2.flip(resized, 1, dst=out)
            else:
                out[:] = resized
        self._recolour(views, u[:, 6:12])
        low, high = self.sigma
        for row in np.flatnonzero(blur < self.blur):
            views[row] = gaussian_blur(views[row], low + (high - low) * float(sigma[row]))
        for row in np.flatnonzero(solarize < self.solarize):
            cv2.min(views[row], cv2.bitwise_not(views[row]), dst=views[row])
        return torch.from_numpy(views).permute(0, 3, 1, 2)

    def _recolour(self, views: UInt8[ndarray, "b s s 3"], draws: Float[Tensor, "b 6"]) -> None:
        factors, turn, gray = drawn_colours(self, draws.unbind(dim=1))
        changed = ((draws[:, 0] < self.jitter) | gray).tolist()
        means = [cv2.mean(view)[:3] if each else (0.0, 0.0, 0.0) for view, each in zip(views, changed, strict=True)]
        matrix, offset = colour_map(torch.tensor(means), factors, turn, gray)
        maps = torch.cat([matrix, offset], dim=2).numpy()
        for view, colours, each in zip(views, maps, changed, strict=True):
            if each:
                cv2.transform(view, colours, dst=view)


def gaussian_blur(view: UInt8[ndarray, "s s 3"], sigma: float) -> UInt8[ndarray, "s s 3"]:
    """Blurred as `ReferenceAugment` does it: a kernel of at most a tenth of the side, the border reflected.

    Besides, it is cut at three standard deviations, which moves no value by more than 1 / 255.
    """
    radius = min(largest_kernel(len(view)) // 2, ceil(3 * sigma))
    kernel = cv2.getGaussianKernel(2 * radius + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def _resized(picture: UInt8[ndarray, "h w 3"], box: list[int], size: int) -> UInt8[ndarray, "s s 3"]:
    left, top, width, height = box
    # torch copies what is not in one piece to planes, which takes longer than this.
    piece = np.ascontiguousarray(picture[top : top + height, left : left + width])
    planes = torch.from_numpy(piece).permute(2, 0, 1)
    return resize_image(planes, [size, size], InterpolationMode.BICUBIC, antialias=True).permute(1, 2, 0).numpy()
