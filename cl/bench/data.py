"""Races what makes SimCLR's views: images a second on one core, in alternating repeats in one process.

At 224 pixels from JPEGs of 500 x 375 pixels (quality 90, about 32 kB), at 32 from pictures in memory. Two views of
each: crop (0.08, 1), jitter (0.8, 0.8, 0.8, 0.2) at 0.8, gray at 0.2, blur at 0.5. torchvision and lightly resample
bilinearly, as is their default, ours bicubically at 224 and bilinearly at 32. Ours end in uint8 pictures at 224 and in
float32 at 32, torchvision's in uint8, lightly's in normalised float32.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from cl.bench.intervals import median_interval
from cl.views.augment import BatchAugment
from cl.views.augment_settings import largest_kernel
from cl.views.decode import decode
from cl.views.fused_augment import FusedAugment
from cl.views.reference_augment import ReferenceAugment
from cl.views.samples import Sample
from cl.views.stream import FEW
from cl.views.transforms import SampleTransform

CROP, SIGMA = (0.08, 1.0), (0.1, 2.0)
BRIGHTNESS, CONTRAST, SATURATION, HUE = JITTER = (0.8, 0.8, 0.8, 0.2)
VIEWS = 2

Pass = Callable[[int], object]
"""Makes both views of every picture once; its number gives other views every time."""


def pictures(count: int, height: int, width: int) -> list[UInt8[ndarray, "h w 3"]]:
    """Noise as rough as photographs are: amplitudes fall with frequency, channels go together. Seeded."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    noise = rng.normal(size=(count, 4, 2, *frequency.shape)) / frequency**1.93
    layers = np.fft.irfft2(noise[:, :, 0] + 1j * noise[:, :, 1], s=(height, width))
    layers /= layers.std(axis=(2, 3), keepdims=True)
    values = 128 + 45 * (0.8 * layers[:, :1] + 0.6 * layers[:, 1:])
    return list(np.ascontiguousarray(values.transpose(0, 2, 3, 1).clip(0, 255).astype(np.uint8)))


# At 224 pixels, from JPEGs.


def _decode_only(jpegs: Sequence[bytes], size: int) -> Pass:
    return lambda number: [decode(jpeg) for jpeg in jpegs]


def _pillow(jpeg: bytes) -> Image.Image:
    return Image.open(BytesIO(jpeg)).convert("RGB")


def _torchvision_v1(jpegs: Sequence[bytes], size: int) -> Pass:
    view = v1.Compose(
        [
            v1.RandomResizedCrop(size, CROP),
            v1.RandomHorizontalFlip(),
            v1.RandomApply([v1.ColorJitter(*JITTER)], 0.8),
            v1.RandomGrayscale(0.2),
            v1.RandomApply([v1.GaussianBlur(largest_kernel(size), SIGMA)], 0.5),
            v1.PILToTensor(),
        ]
    )
    return lambda number: [[view(picture) for _ in range(VIEWS)] for picture in map(_pillow, jpegs)]


def _v2_view(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, CROP),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(largest_kernel(size), SIGMA)], 0.5),
        ]
    )


def _torchvision_v2(jpegs: Sequence[bytes], size: int) -> Pass:
    view = _v2_view(size)
    return lambda number: [[view(image) for _ in range(VIEWS)] for image in map(v2.PILToTensor(), map(_pillow, jpegs))]


def _lightly(jpegs: Sequence[bytes], size: int) -> Pass:
    from lightly.transforms.simclr_transform import SimCLRTransform

    both = SimCLRTransform(input_size=size)
    return lambda number: [both(picture) for picture in map(_pillow, jpegs)]


def _ours(transform: SampleTransform, jpegs: Sequence[bytes]) -> Pass:
    def run(number: int) -> None:
        for start in range(0, len(jpegs), FEW):
            images = [torch.from_numpy(decode(jpeg)).permute(2, 0, 1) for jpeg in jpegs[start : start + FEW]]
            samples = [Sample(image, -1, ("",), "", start + row) for row, image in enumerate(images)]
            for view in range(VIEWS):
                transform.crops(samples, 0, number, view)

    return run


def _reference(jpegs: Sequence[bytes], size: int) -> Pass:
    return _ours(
        ReferenceAugment(
            size, CROP, brightness=BRIGHTNESS, contrast=CONTRAST, saturation=SATURATION, hue=HUE, sigma=SIGMA
        ),
        jpegs,
    )


def _fused(jpegs: Sequence[bytes], size: int) -> Pass:
    return _ours(
        FusedAugment(size, CROP, brightness=BRIGHTNESS, contrast=CONTRAST, saturation=SATURATION, hue=HUE, sigma=SIGMA),
        jpegs,
    )


# At 32 pixels, from pictures in memory.


def _torchvision_small(images: Sequence[UInt8[ndarray, "h w 3"]], size: int) -> Pass:
    view, rows = _v2_view(size), [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    return lambda number: [[view(row) for _ in range(VIEWS)] for row in rows]


def _lightly_small(images: Sequence[UInt8[ndarray, "h w 3"]], size: int) -> Pass:
    from lightly.transforms.simclr_transform import SimCLRTransform

    both = SimCLRTransform(input_size=size)
    return lambda number: [both(Image.fromarray(image)) for image in images]


def _batch(images: Sequence[UInt8[ndarray, "h w 3"]], size: int) -> Pass:
    rows, ids = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.arange(len(images))
    augment = BatchAugment(
        size, CROP, brightness=BRIGHTNESS, contrast=CONTRAST, saturation=SATURATION, hue=HUE, blur=0.5, sigma=SIGMA
    )
    return lambda number: [augment(rows, ids, 0, number, view) for view in range(VIEWS)]


@dataclass(frozen=True)
class Case:
    """One size of views, and who makes them.

    Attributes:
        size: a view's side.
        contenders: by name; each is built once from the pictures and the size.
        baseline: the one that the others' speeds are told in.
        ours: the one the bar is for.
        bar: how many times the baseline's speed is asked for.
    """

    size: int
    contenders: Mapping[str, Callable[[Any, int], Pass]]
    baseline: str
    ours: str
    bar: float


LARGE = Case(
    224,
    {
        "simplejpeg, decoding alone": _decode_only,
        "Pillow + torchvision v1": _torchvision_v1,
        "Pillow + torchvision v2": _torchvision_v2,
        "Pillow + lightly": _lightly,
        "cl ReferenceAugment": _reference,
        "cl FusedAugment": _fused,
    },
    baseline="Pillow + torchvision v1",
    ours="cl FusedAugment",
    bar=6.0,
)
SMALL = Case(
    32,
    {"torchvision v2": _torchvision_small, "lightly": _lightly_small, "cl BatchAugment": _batch},
    baseline="torchvision v2",
    ours="cl BatchAugment",
    bar=20.0,
)


def race(case: Case, given: Sequence[Any], repeats: int) -> list[dict[str, Any]]:
    """A row for every contender: median images/s, and how many times the baseline's with its interval."""
    passes: dict[str, Pass] = {}
    failed: dict[str, str] = {}
    for name, build in case.contenders.items():
        try:
            passes[name] = build(given, case.size)
        except ImportError as error:
            failed[name] = f"not installed: {error.name}"
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(repeats + 1):
        for name in list(passes) if number % 2 else list(passes)[::-1]:
            start = time.perf_counter()
            passes[name](number)
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name in case.contenders:
        row: dict[str, Any] = {"size": case.size, "contender": name}
        if name in failed:
            rows.append(row | {"failed": failed[name]})
            continue
        ratios = [theirs / mine for theirs, mine in zip(seconds[case.baseline], seconds[name], strict=True)]
        median, low, high = median_interval(ratios)
        row |= {
            "pictures": len(given),
            "repeats": repeats,
            "images_per_second": round(len(given) / statistics.median(seconds[name]), 1),
            "times_baseline": round(median, 3),
            "interval_95": [round(low, 3), round(high, 3)],
        }
        rows.append(row | ({"bar": case.bar, "met": low >= case.bar} if name == case.ours else {}))
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `bench.py data`."""
    parser.add_argument("--repeats", type=int, default=15, help="alternating repeats; default 15")
    parser.add_argument("--pictures", type=int, default=64, help="JPEGs a pass at 224; four times as many at 32")
    parser.add_argument("--out", type=Path, metavar="DIR", help="writes data.json and, with matplotlib, data.png there")


def main(chosen: argparse.Namespace) -> None:
    """Runs both sizes on one core, printing a line a contender."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    jpegs = [simplejpeg.encode_jpeg(picture, quality=90) for picture in pictures(chosen.pictures, 375, 500)]
    print(f"JPEGs of {np.mean([len(jpeg) for jpeg in jpegs]) / 1000:.1f} kB, {platform.machine()}, one thread")
    rows = race(LARGE, jpegs, chosen.repeats) + race(SMALL, pictures(4 * chosen.pictures, 32, 32), chosen.repeats)
    for row in rows:
        print(_line(row), flush=True)
    if chosen.out:
        chosen.out.mkdir(parents=True, exist_ok=True)
        (chosen.out / "data.json").write_text(json.dumps(rows, indent=1) + "\n")
        plot(rows, chosen.out / "data.png")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Images a second as bars, a panel a size; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (pip install '.[peers]')")
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 3.2))
    for axis, case in zip(axes, (LARGE, SMALL), strict=True):
        shown = [row for row in rows if row["size"] == case.size and "failed" not in row][::-1]
        speeds = [row["images_per_second"] for row in shown]
        bars = axis.barh([row["contender"] for row in shown], speeds)
        axis.bar_label(bars, [f" {row['times_baseline']:.1f} x" for row in shown], fontsize=8)
        axis.set_xlim(0, 1.15 * max(speeds))
        axis.set_title(f"two views of {case.size} pixels, one core")
        axis.set_xlabel("images/s")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _line(row: dict[str, Any]) -> str:
    head = f"{row['size']:>4} px  {row['contender']:27}"
    if "failed" in row:
        return f"{head} {row['failed']}"
    low, high = row["interval_95"]
    tail = f"  bar {row['bar']:g} x: {'met' if row['met'] else 'missed'}" if "bar" in row else ""
    return (
        f"{head} {row['images_per_second']:9.1f} images/s  "
        f"{row['times_baseline']:6.2f} x torchvision ({low:.2f} to {high:.2f}){tail}"
    )
