import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from cl.views.augment import BatchAugment, colour_map, gaussian_blur
from cl.views.transforms import BatchTransform

STILL = {"crop": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "gray": 0.0}
FRACTION = st.floats(0, 1)


def pictures(b=6, side=8, seed=0, w=None):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (b, 3, side, w or side), generator=generator, dtype=torch.uint8)


def augment(images, seed=0, epoch=0, view=0, size=8, **settings):
    return BatchAugment(size, **settings)(images, torch.arange(len(images)), seed, epoch, view)


def test_is_a_transform():
    assert isinstance(BatchAugment(8), BatchTransform)


def test_with_nothing_to_do_a_view_is_the_picture():
    images = pictures()
    torch.testing.assert_close(augment(images, **STILL), images / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(augment(images / 255, **STILL), images / 255, atol=1e-5, rtol=0)


@given(FRACTION, FRACTION, st.floats(0, 180), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9))
def test_views_are_in_range_whatever_is_asked(p, amount, rotate, size, h, w):
    view = augment(
        pictures(4, h, w=w),
        size=size,
        crop=(0.1 + amount, 2.0),
        flip=p,
        rotate=rotate,
        shear=80 * amount,
        jitter=p,
        brightness=2 * amount,
        contrast=amount,
        saturation=3 * amount,
        hue=amount / 2,
        gray=p,
        blur=p,
        solarize=p,
    )
    assert view.shape == (4, 3, size, size) and view.dtype == torch.float32
    assert view.isfinite().all() and view.min() >= -1e-6 and view.max() <= 1 + 1e-6


@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_view_depends_on_its_sample_alone(order, b):
    images, ids, order = pictures(), torch.arange(6) * 7919, torch.tensor(order)
    augmenter = BatchAugment(8, rotate=20.0, blur=0.5, solarize=0.5)
    whole = augmenter(images, ids, 1, 2, 0)
    torch.testing.assert_close(augmenter(images[order[:b]], ids[order[:b]], 1, 2, 0), whole[order[:b]])


def test_seed_epoch_sample_and_view_each_change_it():
    images = pictures(1).expand(2, -1, -1, -1)
    base = augment(images)
    others = [augment(images, seed=1), augment(images, epoch=1), augment(images, view=1)]
    assert not torch.equal(base[0], base[1]) and not any(torch.equal(base, other) for other in others)


def test_flip_mirrors():
    images = pictures()
    torch.testing.assert_close(augment(images, **STILL | {"flip": 1.0}), images.flip(3) / 255, atol=1e-5, rtol=0)


def test_crops_have_the_area_and_ratio_asked_for_and_lie_inside():
    side, b = 64, 4000
    column = torch.arange(side).float().expand(side, side) / side
    ramps = torch.stack([column, column.T, 0 * column]).expand(b, -1, -1, -1)
    view = augment(ramps, size=8, **STILL | {"crop": (0.2, 0.8), "ratio": (0.5, 2.0)})
    # Between two inner pixels the ramps rise by 1/8 of the crop's sides.
    w, h = ((view[:, 0, 4, 5] - view[:, 0, 4, 4]) * 8, (view[:, 1, 5, 4] - view[:, 1, 4, 4]) * 8)
    left, top = view[:, 0, 4, 4] - w / 16, view[:, 1, 4, 4] - h / 16
    uncut = (w < 0.99) & (h < 0.99)
    area, ratio = (w * h)[uncut], (w / h)[uncut]
    assert area.min() > 0.19 and area.max() < 0.81 and ratio.min() > 0.49 and ratio.max() < 2.01
    assert ratio.log().mean().abs() < 0.03 and abs((w * h).mean() - 0.5) < 0.02
    for middle, length in ((left, w), (top, h)):
        assert (middle - length / 2).min() > -0.02 and (middle + length / 2).max() < 1.01
        assert abs(middle.mean() - 0.5) < 0.02


def test_a_crop_larger_than_the_picture_repeats_its_border():
    view = augment(torch.full((3, 3, 8, 8), 77, dtype=torch.uint8), **STILL | {"crop": (4.0, 4.0)})
    torch.testing.assert_close(view, torch.full_like(view, 77 / 255))
    white_inside = F.pad(torch.ones(50, 3, 6, 6), (1, 1, 1, 1))
    share = augment(white_inside, size=32, **STILL | {"crop": (4.0, 4.0)}).mean(dim=(1, 2, 3))
    torch.testing.assert_close(share, torch.full_like(share, 36 / 64 / 4), atol=0.01, rtol=0)


def test_rotation_turns_about_the_middle():
    # A dot off the middle lands on its circle, at any angle.
    side, b = 65, 200
    image = torch.zeros(1, 3, side, side)
    image[:, :, 32, 52] = 1
    dots = gaussian_blur(image, torch.tensor([1.5])).expand(b, -1, -1, -1)
    at = augment(dots, size=side, **STILL, rotate=180.0)[:, 0].flatten(1).argmax(dim=1)
    x, y = at % side - 32, at // side - 32
    assert ((x**2 + y**2).float().sqrt() - 20).abs().max() < 1.5
    angle = torch.atan2(y.float(), x.float())
    assert torch.histc(angle, bins=8, min=-math.pi, max=math.pi).min() >= b / 20
    small = augment(dots, size=side, **STILL, rotate=30.0)[:, 0].flatten(1).argmax(dim=1)
    angle = torch.atan2((small // side - 32).float(), (small % side - 32).float()).rad2deg()
    assert 25 < angle.abs().max() < 33 and angle.min() < -20 and angle.max() > 20


def naive_colour(image, brightness, contrast, saturation, turn, gray):
    """One operation after the other, hue by the complex chroma of YIQ."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)

    def gray_of(x):
        return (luma[:, None, None] * x).sum(0, keepdim=True)

    x = image * brightness
    x = contrast * x + (1 - contrast) * gray_of(x).mean()
    x = saturation * x + (1 - saturation) * gray_of(x)
    yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
    y, i, q = (yiq @ x.flatten(1)).unbind()
    chroma = torch.complex(i, q) * torch.exp(torch.tensor(1j * turn))
    x = (torch.linalg.inv(yiq) @ torch.stack([y, chroma.real, chroma.imag])).view_as(x)
    return gray_of(x).expand_as(x) if gray else x


FACTOR = st.floats(0, 2)


@given(FACTOR, FACTOR, FACTOR, st.floats(-math.pi, math.pi), st.booleans(), st.integers(0, 9))
def test_one_matrix_is_all_colour_operations_in_turn(brightness, contrast, saturation, turn, gray, seed):
    image = torch.rand(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    each = [torch.tensor([value]).double() for value in (brightness, contrast, saturation, turn)]
    *factors, angle = each
    matrix, offset = colour_map(image.mean(dim=(1, 2))[None], tuple(factors), angle, torch.tensor([gray]))
    mapped = (matrix[0] @ image.flatten(1) + offset[0]).view_as(image)
    expected = naive_colour(image, brightness, contrast, saturation, turn, gray)
    torch.testing.assert_close(mapped, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "one, theirs",
    [
        ({"brightness": 0.6}, "adjust_brightness"),
        ({"contrast": 0.6}, "adjust_contrast"),
        ({"saturation": 0.6}, "adjust_saturation"),
    ],
)
def test_each_colour_operation_is_torchvisions(one, theirs):
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.2  # far from clipping
    names = ("brightness", "contrast", "saturation")
    factors = [torch.tensor([one.get(name, 1.0)]) for name in names]
    matrix, offset = colour_map(image.mean(dim=(2, 3)), tuple(factors), torch.tensor([0.0]), torch.tensor([False]))
    mapped = torch.baddbmm(offset, matrix, image.flatten(2)).view_as(image)
    adjust = getattr(v2.functional, theirs)
    # torchvision rounds the luma's weights to 0.2989, 0.587, 0.114.
    torch.testing.assert_close(mapped, adjust(image, *one.values()), atol=1e-3, rtol=0)


def test_gray_has_equal_channels_and_the_same_luma():
    images = pictures()
    view = augment(images, **STILL | {"gray": 1.0})
    luma = (torch.tensor([0.299, 0.587, 0.114])[:, None, None] * (images / 255)).sum(1, keepdim=True)
    torch.testing.assert_close(view, luma.expand_as(view), atol=1e-3, rtol=0)


@given(st.floats(0.3, 3))
def test_blur_is_torchvisions_away_from_the_border(sigma):
    images = pictures(2, 41).float() / 255
    ours = gaussian_blur(images, torch.full((2,), sigma))
    theirs = v2.functional.gaussian_blur(images, [25, 25], [sigma, sigma])
    torch.testing.assert_close(ours[..., 13:-13, 13:-13], theirs[..., 13:-13, 13:-13], atol=1e-3, rtol=0)


def test_blur_without_width_changes_nothing_and_a_plain_picture_stays():
    images = pictures().float() / 255
    torch.testing.assert_close(gaussian_blur(images, torch.zeros(6)), images)
    plain = torch.full((2, 3, 9, 9), 0.3)
    torch.testing.assert_close(gaussian_blur(plain, torch.tensor([0.7, 4.0])), plain)


def test_solarize_inverts_the_bright_half():
    images = pictures()
    view = augment(images, **STILL | {"solarize": 1.0})
    bright = images >= 128
    torch.testing.assert_close(view, torch.where(bright, 255 - images, images) / 255, atol=1e-5, rtol=0)


@given(FRACTION)
def test_probabilities_are_those_asked_for(p):
    images = pictures(1, 8).expand(2000, -1, -1, -1)
    still = augment(images[:1], **STILL)
    for name in ("flip", "gray", "blur", "solarize"):
        view = augment(images, **STILL | {name: p}, sigma=(1.0, 2.0))
        changed = ((view - still).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean()
        assert abs(changed - p) < 0.05, name


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 0},
        {"crop": (0.0, 1.0)},
        {"crop": (0.9, 0.2)},
        {"ratio": (-1.0, 1.0)},
        {"sigma": (math.nan, 1.0)},
        {"flip": 1.5},
        {"gray": -0.1},
        {"blur": math.nan},
        {"brightness": -0.1},
        {"contrast": math.inf},
        {"hue": 0.6},
        {"rotate": -1.0},
    ],
    ids=str,
)
def test_refuses_what_makes_no_sense(bad):
    with pytest.raises(ValueError, match=f"BatchAugment.{next(iter(bad))}"):
        BatchAugment(**{"size": 8} | bad)
