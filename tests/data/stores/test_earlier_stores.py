"""Stores that earlier code has written open, and hold the same values; see golden/make.py."""

import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_imnet64.data.stores.encoded import digest_of
from keras_imnet64.data.stores.moments import moments
from keras_imnet64.data.stores.opening import open_store

GOLDEN = Path(__file__).parent / "golden"
FILES = ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.png", "b/5.png"]
KEPT_AS_PNG = ["b/3.jpg", "b/5.png"]
SIZES = [[7, 11], [11, 7], [7, 11], [7, 11], [7, 11]]  # the second is turned
LABELS = [0, 1, 1, 0, 1]


def encoded_store(kind, folder):
    """A copy of a store whose meta.json names the folder of its images."""
    shutil.copytree(GOLDEN / kind, folder)
    meta = json.loads((folder / "meta.json").read_text())
    meta["root"] = str(GOLDEN / meta["root"])
    (folder / "meta.json").write_text(json.dumps(meta))
    return open_store(folder)


def check_facts(store):
    assert (store.dataset, store.split) == ("image_folder/golden", "train")
    assert store.wnids == ["n01", "café"] and store.class_names == ["ant", "bee"]
    assert store.source == "drawn by make.py" and store.verified is True
    assert len(store) == 5 and store.labels.tolist() == LABELS and store.labels.dtype == np.int32


def test_a_raw_store_of_earlier_code_holds_the_same_values():
    arrays = np.load(GOLDEN / "images.npz")
    store = open_store(GOLDEN / "raw")
    check_facts(store)
    images, labels = store.gather(np.array([4, 0, 2, 2]))
    np.testing.assert_array_equal(images, arrays["images"][[4, 0, 2, 2]])
    np.testing.assert_array_equal(labels, arrays["labels"][[4, 0, 2, 2]])
    content = arrays["images"].tobytes() + arrays["labels"].tobytes()
    assert store.digest == hashlib.sha256(content).hexdigest() and store.image_size == 4
    np.testing.assert_allclose(moments(store).mean_image, arrays["images"].mean(0), rtol=1e-6)


@pytest.mark.parametrize("version", [1, 2])
def test_an_encoded_store_of_earlier_code_holds_the_same_values(version, tmp_path):
    store = encoded_store(f"encoded_{version}", tmp_path / "train")
    check_facts(store)
    contents = [(GOLDEN / "images" / name).read_bytes() for name in FILES]
    positions = np.arange(5)
    for name, expected, found in zip(FILES, contents, store.read(positions), strict=True):
        if name in KEPT_AS_PNG:
            shown = ImageOps.exif_transpose(Image.open(io.BytesIO(expected))).convert("RGB")
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(found))), shown)
        else:
            assert found == expected
    assert store.num_converted == 2 and store.sizes(positions).tolist() == SIZES
    sources = {Path(store.source_of(position)).name for position in positions}
    assert "converted.bin" in sources and len(sources) > 1  # of copies it is not known
    hashes = np.stack([np.frombuffer(hashlib.sha256(c).digest(), "uint8") for c in contents])
    assert store.digest == digest_of(hashes, store.labels)
    if version == 1:
        assert store.hashes is None
    else:
        np.testing.assert_array_equal(store.hashes, hashes)
    pixels = np.asarray(Image.open(GOLDEN / "images" / "a/1.jpg"), float)
    np.testing.assert_allclose(store.sums[0, :3], pixels.mean((0, 1)))
