"""How much a zip may grow: images pass at any size, bombs do not, one by one or together."""

import io
import random
import zipfile

import pytest

from keras_imnet64.core import zips

NOISE = random.Random(0).randbytes(3000)  # does not compress


def zip_of(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content


@pytest.fixture(autouse=True)
def small_bombs(monkeypatch):
    """1,000 bytes that grow tenfold are too many."""
    monkeypatch.setattr(zips, "BOMB_BYTES", 1000)
    monkeypatch.setattr(zips, "BOMB_RATIO", 10)


@pytest.mark.parametrize(
    "members",
    [
        {"a": NOISE},
        {f"noise{i}": NOISE for i in range(50)},
        {"zeros": bytes(999)},
        {"noise": NOISE, "a": bytes(400), "b": bytes(400)},
        {},
    ],
)
def test_what_hardly_compresses_or_is_small_passes(members):
    with zips.open_zip(zip_of(**members)) as archive:
        assert len(archive.namelist()) == len(members)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a": bytes(1001)}, "a would grow from .* to 1,001 bytes"),
        ({"a": bytes(600), "b": bytes(601)}, "b with 1 other members would grow .* to 1,201 bytes"),
        ({"noise": NOISE, "a": bytes(600), "b": bytes(601)}, "b with 1 .* to 1,201 bytes"),
    ],
)
def test_bombs_are_refused(members, message):
    with pytest.raises(zipfile.BadZipFile, match=message):
        zips.open_zip(zip_of(**members))


def test_bytes_that_are_listed_as_many_members_are_counted_once():
    """Twenty members that share the bytes of one, of which none grows by itself."""
    whole = zip_of(a=NOISE).getvalue()
    start, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    entry, tail = whole[start:end], bytearray(whole[end:])
    entries = b"".join(entry[:46] + bytes([97 + i]) + entry[47:] for i in range(20))
    tail[8:12] = (20).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    with pytest.raises(zipfile.BadZipFile, match=r"19 other members would grow .* to 60,000 bytes"):
        zips.open_zip(io.BytesIO(whole[:start] + entries + bytes(tail)))
