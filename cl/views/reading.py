"""What is read of a record, and how: picture, label, captions."""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import UInt8
from numpy import ndarray

from cl.components import Capability
from cl.errors import DataError
from cl.views.decode import EXTENSIONS, TooLarge, decode, square
from cl.views.records import BadSample, Record, Records
from cl.views.samples import Sample

PICKLES = frozenset({"pkl", "pickle", "pyd", "pth", "pt", "npy", "npz"})


class Reading:
    """Decodes records.

    Args:
        owner: the component whose settings these are, for messages.
        label: extension of the member that holds the class number; None: none.
        caption: extension of the member that holds the caption, in UTF-8, or several of them, of which a sample must
            have one; None: none. Beside `txt`, `1.txt`, `2.txt` and so on are further captions of a sample.
        size: pictures are resized by their shorter side and cut to a square of so many pixels about the middle; None:
            as they are.
        max_bad_fraction: of all samples, how many may be left out because they cannot be used.

    Raises:
        ValueError: a size below 1, a fraction that is none, or an extension of pickles, which are never opened.
    """

    def __init__(
        self,
        owner: str,
        label: str | None,
        caption: str | Sequence[str] | None,
        size: int | None,
        max_bad_fraction: float,
    ):
        if size is not None and size < 1:
            raise ValueError(f"{owner}.size must be at least 1 pixel, got {size}")
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"{owner}.max_bad_fraction is a share of all samples: from 0 to 1, got {max_bad_fraction}")
        self.captions = (caption,) if isinstance(caption, str) else tuple(caption or ())
        for extension in (label, *self.captions):
            if extension and extension.rpartition(".")[2] in PICKLES:
                raise ValueError(f"{owner}: members that end in {extension} are pickles, which are never opened")
        self.owner = owner
        self.label = label
        self.size = size
        self.max_bad_fraction = max_bad_fraction
        carried: dict[Capability, object] = {"labels": self.label, "captions": self.captions}
        self.provides: frozenset[Capability] = frozenset(word for word, given in carried.items() if given)

    def check(self, records: Records) -> None:
        """Compares what is to be read with what the index says that samples have.

        Raises:
            DataError: too few samples have a picture, a label or a caption.
        """
        wanted = (
            ("picture", EXTENSIONS, f"Pictures end in {', '.join(EXTENSIONS)}."),
            ("label", (self.label or "",), f"Name the member that labels are in by {self.owner}.label, or None."),
            ("caption", self.captions, f"Name the members that captions are in by {self.owner}.caption, or None."),
        )
        for what, extensions, remedy in wanted:
            have = sum(records.having.get(extension, 0) for extension in extensions)
            if any(extensions) and have < len(records) * (1 - self.max_bad_fraction):
                raise DataError(
                    f"{self.owner}: {have:,} of {len(records):,} samples have a {what}: the members they have are "
                    f"{', '.join(f'{name} ({count:,})' for name, count in sorted(records.having.items()))}. {remedy}"
                )

    def decoded(self, record: Record) -> Sample:
        """The sample that a record holds.

        Raises:
            BadSample: it has no picture, label or caption that can be read.
        """
        return Sample(
            image=rearrange(torch.from_numpy(self._picture(record.members)), "h w c -> c h w"),
            label=self._label(record.members),
            captions=self._captions(record.members),
            key=record.key,
            sample=record.sample,
        )

    def _picture(self, members: Mapping[str, bytes]) -> UInt8[ndarray, "h w 3"]:
        content = next((members[extension] for extension in EXTENSIONS if extension in members), None)
        if content is None:
            raise BadSample("no picture", f"its members are {', '.join(members)}")
        try:
            image = decode(content)
            return image if self.size is None else square(image, self.size)
        except TooLarge as error:
            raise BadSample("a picture too large", str(error)) from None
        except (ValueError, OSError) as error:
            raise BadSample("a picture that cannot be decoded", str(error)) from None

    def _label(self, members: Mapping[str, bytes]) -> int:
        if self.label is None:
            return -1
        if self.label not in members:
            raise BadSample("no label", f"it has no member {self.label!r}")
        try:
            label = int(members[self.label])
        except ValueError:
            raise BadSample("a label that is no number", repr(members[self.label][:40])) from None
        if not -(2**63) <= label < 2**63:
            raise BadSample("a label of more than 64 bits", repr(members[self.label][:40]))
        return label

    def _captions(self, members: Mapping[str, bytes]) -> tuple[str, ...]:
        if not self.captions:
            return ("",)
        found = []
        for extension in self.captions:
            number, name = 0, extension
            while name in members:
                found.append(members[name])
                number += 1
                name = f"{number}.{extension}"
        if not found:
            raise BadSample("no caption", f"it has no member {' or '.join(map(repr, self.captions))}")
        try:
            captions = tuple(content.decode("utf-8").strip() for content in found)
        except UnicodeDecodeError as error:
            raise BadSample("a caption that is not UTF-8", str(error)) from None
        if not all(captions):
            raise BadSample("an empty caption")
        return captions
