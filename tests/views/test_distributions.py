"""How far `FusedAugment`'s distribution is from `ReferenceAugment`'s, parameter by parameter.

What agrees is held to Kolmogorov and Smirnov's two-sample test; what departs, to the figures `FusedAugment` states.
"""

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2

from cl.views.crop_boxes import DRAWS, crop_boxes
from cl.views.fused_augment import FusedAugment
from cl.views.reference_augment import ReferenceAugment
from cl.views.samples import Sample

STILL = {"crop": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}  # SimCLR's
NO_JITTER = dict.fromkeys(JITTER, 0.0)
LUMA = torch.tensor([0.299, 0.587, 0.114]).double()
SURE = 0.01
"""The probability with which two samples of one distribution would differ more than is allowed."""


def both(image, views, size, **settings):
    """Views of the one picture by either class, in [0, 1]."""
    rows = [Sample(image, -1, ("",), "", sample) for sample in range(views)]
    return [kind(size, **settings).crops(rows, 0, 0, 0).double() / 255 for kind in (FusedAugment, ReferenceAugment)]


def noise(side, low=0, high=256):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(low, high, (3, side, side), generator=generator, dtype=torch.uint8)


def luma(views):
    return torch.einsum("b c h w, c -> b h w", views, LUMA)


def agree(ours, theirs):
    return ks_2samp(ours, theirs).pvalue > SURE


@pytest.mark.parametrize("h, w", [(375, 500), (64, 64), (60, 400)])
def test_crops_have_the_same_area_ratio_and_place(h, w):
    n, crop, ratio = 4000, (0.08, 1.0), (3 / 4, 4 / 3)
    draws = np.random.default_rng(0).random((n, DRAWS))
    left, top, wide, high = crop_boxes(np.full((n, 2), (h, w), np.float64), draws, crop, ratio).T
    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(8, crop, ratio), torch.empty(3, h, w)
    theirs = [transform.make_params([image]) for _ in range(n)]
    their_top, their_left, their_high, their_wide = (
        np.array([each[name] for each in theirs]) for name in ("top", "left", "height", "width")
    )
    assert agree(wide * high, their_wide * their_high)
    assert agree(wide / high, their_wide / their_high)
    assert agree(left, their_left) and agree(top, their_top)
    assert agree(left + wide, their_left + their_wide) and agree(top + high, their_top + their_high)


@pytest.mark.parametrize("name", ["flip", "jitter", "gray", "blur", "solarize"])
def test_what_is_done_is_done_as_often(name):
    image, n = noise(8), 1500
    ours, theirs = both(image, n, 8, **STILL | {name: 0.3}, sigma=(1.0, 2.0))
    often = [(views != image.double() / 255).flatten(1).any(dim=1).double().mean() for views in (ours, theirs)]
    assert 0.2 < min(often) <= max(often) < 0.4
    # Four standard deviations of the difference of two shares.
    assert abs(often[0] - often[1]) < 4 * (2 * 0.3 * 0.7 / n) ** 0.5


def brightness(views):
    return views.mean(dim=(1, 2, 3))


def contrast(views):
    return luma(views).std(dim=(1, 2))


def chroma(views):
    return (views.amax(dim=1) - views.amin(dim=1)).mean(dim=(1, 2))


@pytest.mark.parametrize("name, effect", [("brightness", brightness), ("contrast", contrast), ("saturation", chroma)])
def test_colours_that_do_not_clip_change_alike(name, effect):
    settings = STILL | NO_JITTER | {"jitter": 1.0, name: 0.8}
    ours, theirs = map(effect, both(noise(16, 50, 130), 800, 16, **settings))
    assert agree(ours, theirs)
    assert abs(ours.mean() / theirs.mean() - 1) < 0.09 and abs(ours.std() / theirs.std() - 1) < 0.09


def test_blurs_are_as_wide():
    ours, theirs = both(noise(64), 500, 64, **STILL | {"blur": 1.0})
    assert agree(*(views.std(dim=(1, 2, 3)) for views in (ours, theirs)))


def test_resizing_is_as_sharp():
    generator = torch.Generator().manual_seed(0)
    image = v2.functional.gaussian_blur(torch.rand(3, 150, 200, generator=generator), [5, 5], [1.0, 1.0])
    image = (image * 255).to(torch.uint8)
    settings = STILL | {"crop": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}
    ours, theirs = (edges(views) for views in both(image, 600, 64, **settings))
    assert agree(ours, theirs) and abs(ours.mean() / theirs.mean() - 1) < 0.06


def edges(views):
    return luma(views).diff(dim=2).pow(2).mean(dim=(1, 2)).sqrt()


def hue_of(views):
    """In turns, of HSV."""
    pixels = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    turns = [cv2.cvtColor(each.numpy(), cv2.COLOR_RGB2HSV_FULL)[..., 0] for each in pixels]
    return torch.from_numpy(np.stack(turns)).double() / 256


def test_hue_turns_as_far_on_average_but_keeps_luma():
    image = noise(24, 40, 216)
    settings = STILL | NO_JITTER | {"jitter": 1.0, "hue": 0.2}
    pair = both(image, 200, 24, **settings)
    old = image[None].double() / 255
    # Where a colour has a hue.
    strong = (old.amax(1) - old.amin(1))[0] > 0.3
    turned = [((hue_of(views) - hue_of(old) + 0.5) % 1 - 0.5).abs()[:, strong].mean().item() for views in pair]
    assert turned == [pytest.approx(0.1, abs=0.01)] * 2
    moved = [(luma(views) - luma(old)).abs()[:, strong].mean().item() for views in pair]
    value = [(views.amax(1) - old.amax(1)).abs()[:, strong].mean().item() for views in pair]
    assert moved[0] < 0.01 < 0.05 < moved[1] and value[1] < 0.01 < 0.05 < value[0]


@pytest.fixture(scope="module")
def photographs():
    """scikit-learn's two, made small."""
    return [
        torch.from_numpy(cv2.resize(image, (160, 107), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
        for image in load_sample_images().images
    ]


def clipped(views):
    return ((views == 0) | (views == 1)).double().mean(dim=(1, 2, 3))


def test_simclrs_views_of_photographs_depart_as_stated(photographs):
    for image in photographs:
        ours, theirs = both(image, 1500, 48, crop=(0.08, 1.0), **JITTER)
        # Besides what is stated, three standard errors of the measurement.
        level, their_level = (luma(views).mean(dim=(1, 2)) for views in (ours, theirs))
        assert abs(level.mean() - their_level.mean()) < 0.02 + 0.02 and abs(level.std() / their_level.std() - 1) < 0.12
        for measure in (contrast, chroma, edges):
            assert abs(measure(ours).mean() / measure(theirs).mean() - 1) < 0.08 + 0.06, measure.__name__
        assert 0.01 < clipped(ours).mean() - clipped(theirs).mean() < 0.1
