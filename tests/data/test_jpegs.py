"""JPEGs whose codes are followed: whole ones of every kind, and tables by hand."""

import io

import numpy as np
import pytest
from class_folders import drawn
from PIL import Image

from keras_imnet64.data import entropy
from keras_imnet64.data.damage import Damage, is_complete

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), "uint8"))
KINDS = [
    {},
    {"quality": 100, "subsampling": 0},
    {"subsampling": 1, "optimize": True},
    {"restart_marker_blocks": 3},
    {"progressive": True},
    {"progressive": True, "quality": 100, "subsampling": 0},
    {"progressive": True, "restart_marker_rows": 1},
]


def jpeg(picture, **options):
    content = io.BytesIO()
    picture.save(content, "JPEG", **options)
    return content.getvalue()


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("picture", [NOISE, drawn(45, 70), drawn(1, 1)], ids=["noise", "", "1x1"])
def test_whole_pictures_are_complete(picture, mode, options):
    assert is_complete(jpeg(picture.convert(mode), **options), "JPEG")


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_picture_cut_anywhere_is_not(options):
    content = jpeg(NOISE, **options)
    for end in np.linspace(2, len(content) - 40, 60).astype(int):
        with pytest.raises(Damage):
            is_complete(content[:end], "JPEG")


def test_no_content_reads_beyond_its_end():
    """Random bytes after a true header, which would find any missing bound."""
    rng = np.random.default_rng(0)
    for options in KINDS:
        content = bytearray(jpeg(NOISE, **options))
        for begin in rng.integers(2, len(content), 20):
            changed = bytes(content[:begin]) + rng.bytes(int(rng.integers(1, 3000)))
            try:
                assert is_complete(changed, "JPEG") in (True, False)
            except Damage as damage:
                assert str(damage)


def table_of(counts, symbols):
    table = np.zeros(entropy.TABLE_LENGTH, np.int32)
    given = np.zeros(entropy.MOST_SYMBOLS, np.uint8)
    given[: len(symbols)] = symbols
    counts = np.array(counts + [0] * (16 - len(counts)))
    return entropy.fill_table(table, counts, given), table


def test_a_table_by_hand():
    """Codes 0, 10, 110 stand for 7, 8, 9; no code begins with 111."""
    fits, table = table_of([1, 1, 1], [7, 8, 9])
    assert fits
    found = [divmod(int(table[bits << (entropy.LOOKAHEAD - 3)]), 256) for bits in range(8)]
    assert found == [(1, 7)] * 4 + [(2, 8)] * 2 + [(3, 9), (0, 0)]


def test_more_codes_than_their_length_allows_are_refused():
    assert table_of([2], [1, 2])[0]
    assert not table_of([3], [1, 2, 3])[0]
    assert not table_of([1, 3], [1, 2, 3, 4])[0]
