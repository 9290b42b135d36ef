"""Names of shards: the split, the order, and what is missing."""

from pathlib import Path

import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.sources.shards import shards_by_split

ROOT = Path("/set")


def grouped(*names):
    found = shards_by_split([ROOT / name for name in names], ROOT)
    return {
        split: [str(path.relative_to(ROOT)) for path in paths] for split, paths in found.items()
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-00001-of-00002.parquet", "train-00000-of-00002.parquet"], "train"),
        (["imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar"], "train"),
        (["train.parquet"], "train"),
        (["default/validation/0000.parquet", "default/validation/0001.parquet"], "validation"),
        (["data/valid-00000-of-00001-70d52db3c749a935.parquet"], "validation"),
        (["test_000001.tar", "test_000002.tar", "test_000003.tar"], "test"),  # counted from 1
        (["shard-000000.tar", "shard-000001.tar"], ""),
        (["pictures-20261130.tar"], ""),  # one file: its number may be a date
    ],
)
def test_names_that_hubs_and_tools_give(names, expected):
    assert grouped(*names) == {expected: sorted(names)}


def test_numbers_are_ordered_as_numbers():
    names = [f"train-{number}.tar" for number in range(12)]
    assert grouped(*sorted(names)) == {"train": names}


def test_splits_are_kept_apart():
    names = ["train-0.tar", "val-0.tar", "test-0.tar"]
    assert grouped(*names) == {"train": names[:1], "validation": names[1:2], "test": names[2:]}


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["train-0.tar", "train-2.tar"], "of the 3 shards for train, number 1 is missing"),
        (["train-2.tar", "train-3.tar"], "of the 4 shards for train, number 0 and number 1 are mi"),
        (["train-00000-of-00002.parquet"], "of the 2 shards for train, number 1 is missing"),
        (["val-00005-of-00003.parquet"], "of the 3 shards for validation, number 0, number 1 and"),
        (["train-0-of-1.parquet", "train-0-of-2.parquet"], "of two sets, of 1 and 2 shards"),
        (["train-0-of-1.tar", "train-1.tar"], "of two sets, of 1 and an unknown number of shards"),
        ([], "/set holds no shards whose names begin with neither a dot nor an underscore: rename"),
        (["train-1.tar", "train-01.tar"], "two shards for train with the same number"),
        (["a/train-0.tar", "b/train-0.tar"], "two series of shards for train, such as train-0.tar"),
        (["train.tar", "train-0.tar", "other.tar"], "other.tar is of no split, while others"),
    ],
)
def test_what_does_not_fit_together_is_refused(names, sentence):
    with pytest.raises(UserError, match=sentence):
        grouped(*names)
