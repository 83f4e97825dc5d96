"""Views of pictures of any size: each step against an oracle, and each view a function of its sample alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from cl.views.augment import BatchAugment
from cl.views.augment_settings import largest_kernel
from cl.views.crop_boxes import DRAWS, TRIES, crop_boxes
from cl.views.fused_augment import FusedAugment, gaussian_blur
from cl.views.random import uniforms
from cl.views.reference_augment import ReferenceAugment
from cl.views.samples import Sample
from cl.views.transforms import SampleTransform

STILL = {"crop": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0}
FRACTION = st.floats(0, 1)
BOTH = pytest.mark.parametrize("kind", [FusedAugment, ReferenceAugment])


def picture(h=24, w=24, seed=0):
    """As decoding leaves it: rows of pixels of three channels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8).permute(2, 0, 1)


def samples(*images):
    return [Sample(image, -1, ("",), str(i), 7919 * i) for i, image in enumerate(images)]


def augment(*images, size=24, seed=0, epoch=0, view=0, kind=FusedAugment, **settings):
    return kind(size, **settings).crops(samples(*images), seed, epoch, view)


@BOTH
def test_is_a_transform_of_samples(kind):
    assert isinstance(kind(8), SampleTransform)


@BOTH
@given(st.permutations(range(5)), st.integers(1, 5))
def test_a_view_depends_on_its_sample_alone(kind, order, b):
    rows = samples(*(picture(20 + 5 * i, 31 - i, i) for i in range(5)))
    augmenter = kind(12, solarize=0.5)
    whole = augmenter.crops(rows, 1, 2, 0)
    some = augmenter.crops([rows[row] for row in order[:b]], 1, 2, 0)
    assert torch.equal(some, whole[order[:b]])


@BOTH
def test_seed_epoch_sample_and_view_each_change_it(kind):
    base = augment(picture(), picture(), kind=kind)
    others = [augment(picture(), picture(), kind=kind, **{name: 1}) for name in ("seed", "epoch", "view")]
    assert not torch.equal(base[0], base[1]) and not any(torch.equal(base, other) for other in others)


def test_the_reference_leaves_torchs_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    augment(picture(), kind=ReferenceAugment)
    assert torch.equal(torch.rand(1), expected)


@BOTH
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 9, 32]), FRACTION, FRACTION)
def test_views_are_uint8_pictures_whatever_is_asked(kind, h, w, size, p, amount):
    settings = dict.fromkeys(("flip", "jitter", "gray", "blur", "solarize"), p)
    settings |= dict.fromkeys(("brightness", "contrast", "saturation"), 2 * amount)
    view = augment(picture(h, w), size=size, kind=kind, crop=(0.1, 1.0), hue=amount / 2, **settings)
    assert view.shape == (1, 3, size, size) and view.dtype == torch.uint8


def test_views_are_channels_last_and_pictures_stay_as_they_are():
    images = [picture(24, 24), picture(24, 24).contiguous(), picture(50, 30)]
    before = [image.clone() for image in images]
    view = augment(*images, **STILL | {"flip": 1.0, "gray": 1.0, "blur": 1.0}, solarize=1.0)
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(image, old) for image, old in zip(images, before, strict=True))
    assert torch.equal(view[0], augment(images[0], **STILL | {"flip": 1.0, "gray": 1.0, "blur": 1.0}, solarize=1.0)[0])


# Crop and flip.


def test_with_nothing_to_do_a_view_is_the_picture():
    image = picture()
    assert torch.equal(augment(image, **STILL)[0], image)
    resized = v2.functional.resize(image, [9, 9], v2.InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(augment(image, size=9, **STILL)[0], resized)


def test_flip_mirrors():
    for size in (24, 9, 40):
        view, mirrored = (augment(picture(), size=size, **STILL | {"flip": p}) for p in (0.0, 1.0))
        assert torch.equal(mirrored, view.flip(3))


def boxes(seed, sizes, crop, ratio):
    draws = uniforms(seed, 0, 7919 * torch.arange(len(sizes)), 0, 16 + DRAWS)[:, 16:].double().numpy()
    return crop_boxes(np.array(sizes, np.float64), draws, crop, ratio).tolist()


@given(st.integers(0, 99))
def test_a_crop_is_the_piece_of_its_box_resized_as_torchvision_does(seed):
    images = [picture(90, 70), picture(30, 80), picture(40, 40)]
    settings = STILL | {"crop": (0.05, 0.9), "ratio": (0.5, 2.0)}
    views = augment(*images, size=32, seed=seed, **settings)
    chosen = boxes(seed, [image.shape[1:] for image in images], settings["crop"], settings["ratio"])
    for view, image, (left, top, w, h) in zip(views, images, chosen, strict=True):
        expected = v2.functional.resized_crop(image, top, left, h, w, [32, 32], v2.InterpolationMode.BICUBIC)
        assert torch.equal(view, expected)


def test_a_ramp_shows_where_a_crop_lies():
    h, w, size = 200, 250, 40
    x, y = torch.arange(w).expand(h, w), torch.arange(h)[:, None].expand(h, w)
    ramps = torch.stack([x, y, 0 * x], dim=2).to(torch.uint8).permute(2, 0, 1)
    settings = STILL | {"crop": (0.1, 0.8), "ratio": (0.5, 2.0)}
    views = augment(*[ramps] * 20, size=size, **settings).double()
    at = (torch.arange(size).double() + 0.5) / size
    inner = slice(4, -4)  # the border's pixels count more at the border
    for view, (left, top, wide, high) in zip(
        views, boxes(0, [(h, w)] * 20, settings["crop"], settings["ratio"]), strict=True
    ):
        assert (view[0].mean(0) - (left + at * wide - 0.5))[inner].abs().max() < 1
        assert (view[1].mean(1) - (top + at * high - 0.5))[inner].abs().max() < 1


def naive_box(h, w, draws, crop, ratio):
    """torchvision's RandomResizedCrop.make_params, given its random numbers."""
    for area, aspect in zip(draws[:TRIES], draws[TRIES : 2 * TRIES], strict=True):
        area = h * w * (crop[0] + (crop[1] - crop[0]) * area)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspect)
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= w and 0 < high <= h:
            return [int(draws[-2] * (w - wide + 1)), int(draws[-1] * (h - high + 1)), wide, high]
    if w / h < min(ratio):
        wide, high = w, round(w / min(ratio))
    elif w / h > max(ratio):
        wide, high = round(h * max(ratio)), h
    else:
        wide, high = w, h
    return [(w - wide) // 2, (h - high) // 2, wide, high]


@given(
    st.lists(st.tuples(st.integers(4, 500), st.integers(4, 500)), min_size=1, max_size=8),
    st.tuples(st.floats(0.05, 1.2), st.floats(0, 0.5)),
    st.tuples(st.floats(0.3, 3), st.floats(0, 2)),
    st.integers(0, 99),
)
def test_boxes_are_those_of_torchvisions_loop(sizes, crop, ratio, seed):
    crop, ratio = ((low, low + more) for low, more in (crop, ratio))
    draws = np.random.default_rng(seed).random((len(sizes), DRAWS))
    found = crop_boxes(np.array(sizes, np.float64), draws, crop, ratio).tolist()
    assert found == [naive_box(*size, list(row), crop, ratio) for size, row in zip(sizes, draws, strict=True)]


@given(st.integers(1, 5000), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_a_box_lies_inside_even_of_a_thread(long, thin, upright, seed):
    size = (long, thin) if upright else (thin, long)
    draws = np.random.default_rng(seed).random((4, DRAWS))
    left, top, w, h = crop_boxes(np.array([size] * 4, np.float64), draws, (0.08, 1.0), (3 / 4, 4 / 3)).T
    assert min(left.min(), top.min()) >= 0 and min(w.min(), h.min()) >= 1
    assert (top + h).max() <= size[0] and (left + w).max() <= size[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 5000)])
def test_a_pixel_and_a_thread_have_views(shape):
    red = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(3, *shape)
    view = augment(red, size=8, **STILL | {"crop": (0.08, 1.0), "blur": 1.0})
    assert torch.equal(view, red[None, :, :1, :1].expand(1, 3, 8, 8))
    assert augment(red, size=1, solarize=0.5).shape == (1, 3, 1, 1)


# Colours.


@given(st.floats(0, 1.5), st.floats(0, 0.5), FRACTION, st.integers(0, 99))
def test_colours_are_those_of_batch_augment_on_the_same_draws(amount, hue, p, seed):
    images = [picture(16, 16, i) for i in range(4)]
    settings = STILL | {"jitter": p, "gray": p / 2, "brightness": amount, "contrast": amount, "saturation": amount}
    settings |= {"hue": hue, "flip": p, "solarize": 1 - p}
    views = augment(*images, size=16, seed=seed, **settings)
    ids = torch.tensor([sample.sample for sample in samples(*images)])
    theirs = BatchAugment(16, **settings)(torch.stack(images), ids, seed, 0, 0)
    torch.testing.assert_close(views / 255, theirs, atol=1.2 / 255, rtol=0)


@given(st.integers(0, 99))
def test_a_gray_picture_stays_gray(seed):
    gray = picture(20, 30, seed)[:1].expand(3, -1, -1)
    view = augment(gray, seed=seed, hue=0.5, saturation=2.0, blur=0.5, solarize=0.5)
    assert (view.amax(dim=1) - view.amin(dim=1)).max() <= 1


def test_gray_has_equal_channels_and_the_same_luma():
    image = picture()
    view = augment(image, **STILL | {"gray": 1.0})[0]
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * image).sum(0)
    assert (view - luma).abs().max() < 1


def test_solarize_inverts_the_bright_half():
    image = picture()
    assert torch.equal(augment(image, **STILL, solarize=1.0)[0], torch.where(image >= 128, 255 - image, image))
    assert torch.equal(augment(image, **STILL, solarize=1.0)[0], v2.functional.solarize(image, 128))


def smooth_picture():
    """No value near black or white, so that a change of colours does not clip."""
    return (picture() / 4 + 96).to(torch.uint8)


def test_each_colour_setting_does_its_own():
    image, luma = smooth_picture(), torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    unchanged = STILL | {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    views = {
        name: augment(*[image] * 8, **unchanged | {name: 0.5}).float()
        for name in ("brightness", "contrast", "saturation", "hue")
    }
    gray, slack = (luma * image).sum(0), 1.5  # of 255, for rounding
    factors = views["brightness"].mean(dim=(1, 2, 3), keepdim=True) / image.float().mean()
    assert (views["brightness"] - factors * image).abs().max() < slack
    apart = image - gray.mean()
    factors = (views["contrast"] - gray.mean()).std(dim=(1, 2, 3), keepdim=True) / apart.std()
    assert (views["contrast"] - gray.mean() - factors * apart).abs().max() < slack
    for name in ("saturation", "hue"):
        assert ((luma * views[name]).sum(1) - gray).abs().max() < slack, name
    assert all((view - image).abs().amax(dim=(1, 2, 3)).max() > 4 for view in views.values())


# Blur.


def naive_blur(image, sigma):
    """In float64 with torchvision's kernel; rows, then columns, mirrored about the outermost pixels."""
    radius = largest_kernel(len(image)) // 2
    at = np.arange(-radius, radius + 1)
    kernel = np.exp(-(at**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(image, [(radius, radius) if each == axis else (0, 0) for each in range(3)], mode="reflect")
        parts = [np.take(padded, np.arange(len(image)) + shift, axis) for shift in range(2 * radius + 1)]
        image = sum(weight * part for weight, part in zip(kernel, parts, strict=True))
    return image


@given(st.floats(0.05, 5), st.sampled_from([8, 31, 120]), st.integers(0, 9))
def test_blur_is_a_gaussian(sigma, side, seed):
    image = picture(side, side, seed).permute(1, 2, 0).numpy()
    blurred = gaussian_blur(image, sigma)
    assert np.abs(blurred - naive_blur(image.astype(np.float64), sigma)).max() < 1.1
    kernel = [largest_kernel(side)] * 2
    theirs = v2.functional.gaussian_blur(torch.from_numpy(image).permute(2, 0, 1), kernel, [sigma, sigma])
    assert np.abs(blurred.astype(int) - theirs.permute(1, 2, 0).numpy()).max() <= 2


def test_the_largest_kernel_is_simclrs_tenth():
    assert [largest_kernel(size) for size in (8, 32, 96, 224)] == [3, 3, 9, 23]


def test_a_view_is_blurred_by_a_sigma_of_the_range():
    image = picture(64, 64)
    view = augment(image, size=64, **STILL | {"blur": 1.0}, sigma=(1.3, 1.3))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(view, gaussian_blur(image.permute(1, 2, 0).numpy(), 1.3))
    spreads = augment(*[image] * 50, size=64, **STILL | {"blur": 1.0}, sigma=(0.1, 2.0)).double().std(dim=(1, 2, 3))
    assert spreads.max() > 4 * spreads.min()


# Settings.


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["flip", "jitter", "gray", "blur", "solarize"])
def test_probabilities_are_those_asked_for(name, p):
    image = picture(8, 8)
    views = augment(*[image] * 1000, size=8, **STILL | {name: p}, sigma=(1.0, 2.0))
    changed = (views != image).flatten(1).any(dim=1).double().mean()
    assert abs(changed - p) < 0.05 * (0 < p < 1) + 1e-9


@BOTH
@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"crop": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"sigma": (math.nan, 1.0)},
        {"flip": 1.5},
        {"jitter": -0.1},
        {"gray": -0.1},
        {"blur": math.nan},
        {"solarize": 2.0},
        {"brightness": -0.1},
        {"contrast": math.inf},
        {"saturation": -1.0},
        {"hue": 0.6},
    ],
    ids=str,
)
def test_refuses_what_makes_no_sense(kind, bad):
    with pytest.raises(ValueError, match=f"{kind.__name__}.{next(iter(bad))}"):
        kind(**{"size": 8} | bad)
