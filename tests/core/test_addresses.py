"""Addresses of remote sources: what of them may be shown."""

import pytest

from keras_imnet64.core.paths import without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("ftp://user:s3cret@host/x", "ftp://host/x"),
        ("ftp://user:a@b#c@host/x", "ftp://host/x"),
        ("https://host/a@b.tar", "https://host/a@b.tar"),
        ("https://host/a b.tar?sig=TOKEN&x=1", "https://host/a b.tar"),
        ("simplecache::https://user@host/x?sig=TOKEN", "simplecache::https://host/x"),
        ("403, url='https://u:p@host/x?sig=TOKEN' (no)", "403, url='https://host/x' (no)"),
        ("is it there?", "is it there?"),
    ],
)
def test_users_passwords_and_queries_are_left_out(text, expected):
    assert without_secrets(text) == expected
