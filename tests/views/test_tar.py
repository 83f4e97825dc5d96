"""Tar headers, read as Python's tarfile reads them, and every way in which a file can be damaged."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl.views.tar import BLOCK, TarDamage, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = st.from_regex(r"[ab.é/]{0,12}[aé0]", fullmatch=True)
LONG = st.sampled_from(["x" * 130 + ".png", "folder/" * 20 + "a.png", "a" * 99, "b" * 100, "c" * 101])


def written(files, format="ustar"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[format]) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def found(content):
    return [(member.name, content[member.data : member.data + member.size]) for member in members(content)]


@pytest.mark.parametrize("format", ["gnu", "pax"])
@given(files=st.lists(st.tuples(NAMES | LONG, st.binary(max_size=1100)), max_size=5))
def test_names_and_contents_are_those_of_tarfile(format, files):
    content = written(files, format)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(info.name, tar.extractfile(info).read()) for info in tar.getmembers()]
    assert found(content) == expected


def test_a_long_name_in_two_fields():
    name = "/".join(["folder"] * 20) + "/picture.png"
    assert found(written([(name, b"x")], "ustar")) == [(name, b"x")]


def test_what_is_no_file_is_passed_over_and_offsets_are_those_of_the_first_header():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folder, link = tarfile.TarInfo("d"), tarfile.TarInfo("l")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(folder)
        tar.addfile(link)
        info = tarfile.TarInfo("n" * 200)  # with an extended header of its own
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    (only,) = members(buffer.getvalue())
    assert only.name == "n" * 200 and only.start == 2 * BLOCK < only.data - BLOCK and only.end == only.data + BLOCK
    # From there on, the bytes are a tar file of their own.
    assert found(buffer.getvalue()[only.start : only.end]) == [("n" * 200, b"abc")]


def test_a_size_in_base_256():
    content = bytearray(written([("a", b"abc")]))
    content[124:136] = b"\x80" + (3).to_bytes(11, "big")
    total = sum(content[:148]) + 8 * 32 + sum(content[156:512])
    content[148:156] = f"{total:06o}\0 ".encode()
    assert found(bytes(content)) == [("a", b"abc")]


@given(st.data())
def test_cut_anywhere_it_is_an_error_or_a_whole_number_of_members(data):
    files = [(f"{i}.png", bytes([i]) * (200 * i)) for i in range(5)]
    content = written(files)
    cut = content[: data.draw(st.integers(0, len(content)))]
    try:
        seen = found(cut)
    except TarDamage as damage:
        assert f"byte {len(cut)}" in str(damage)
    else:
        assert seen == files[: len(seen)]
        last = list(members(content))[len(seen) - 1].end if seen else 0
        assert len(cut) >= last - BLOCK + 1 and (len(cut) <= last or len(seen) == 5)


@pytest.mark.parametrize("content", [b"garbage" * 200, b"\x89PNG" + bytes(1000), b"\x1f\x8b" + bytes(2000)])
def test_what_is_no_tar_file(content):
    with pytest.raises(TarDamage, match="not a tar file"):
        found(content)


def test_a_damaged_header_is_named_by_its_byte():
    content = bytearray(written([("a", b"x"), ("b", b"y")]))
    content[2 * BLOCK + 3] ^= 1
    with pytest.raises(TarDamage, match="no header at byte 1024"):
        found(bytes(content))


def test_an_extended_header_that_cannot_be_read():
    content = bytearray(written([("n" * 200, b"x")], "pax"))
    content[BLOCK : BLOCK + 4] = b"zzzz"
    with pytest.raises(TarDamage, match="extended header"):
        found(bytes(content))


@pytest.mark.parametrize("between", [0, 10, 20])
def test_more_after_the_end_mark_is_damage(between):
    one, other = written([("a", b"x")]), written([("b", b"y")])
    with pytest.raises(TarDamage, match="more after the end mark at byte 1024"):
        found(one + bytes(BLOCK * between) + other)
    assert found(one + bytes(BLOCK * between)) == [("a", b"x")]
