"""Text files as people save them: in the encodings of editors, with any line ends."""

import pytest

from keras_imnet64.core.files import byte_order_mark, decode_text

TEXT = "naïve = 1\r\n"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", None),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
def test_text_with_and_without_a_byte_order_mark(encoding, mark):
    assert decode_text(TEXT.encode(encoding)) == TEXT
    assert byte_order_mark(TEXT.encode(encoding)) == mark


def test_the_other_order_of_bytes():
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be")) == TEXT
    assert decode_text(b"\0\0\xfe\xff" + TEXT.encode("utf-32-be")) == TEXT
    assert decode_text(b"") == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("latin-1"), r"not UTF-8 text \(invalid .* at byte 2\): save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "zero bytes, as text in UTF-16 has: save it as UTF-8"),
        (TEXT.encode("utf-16")[:-1], r"not UTF-16 text \(truncated data at byte 22\): save"),
    ],
)
def test_text_in_no_such_encoding(content, message):
    with pytest.raises(ValueError, match=message):
        decode_text(content)
