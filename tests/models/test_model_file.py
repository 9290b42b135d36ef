"""A model file that an earlier commit wrote opens with the code of today.

See `golden/make_model_file.py` for how the file was written.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_imnet64 import model_info
from keras_imnet64.core.validation import to_json
from keras_imnet64.models.info import read_model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo

GOLDEN = Path(__file__).parent / "golden"
FILE = GOLDEN / "trained.keras"


@pytest.mark.backend
def test_the_network_computes_the_logits_of_then():
    golden = np.load(GOLDEN / "trained.npz")
    logits = load_model(FILE).predict(golden["images"], verbose=0)
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-5)
    assert np.ptp(golden["logits"]) > 0.1  # the test can fail


def test_what_the_file_states_is_read_as_a_record():
    info = read_model_info(FILE)
    assert info.recipe is not None and info.recipe["name"] == "demo"
    assert info == ModelInfo(
        wnids=("n00000002", "n00000000", "n00000001"),
        class_names=("owl", "cat", "Bär"),
        image_size=8,
        dataset="image_folder/pets",
        resize_filter="bicubic",
        resize=10,
        ten_crop=True,
        verified=True,
        own_model=False,
        recipe=info.recipe,
        epoch=3,
    )


def test_a_record_as_json_is_what_the_file_states():
    assert to_json(read_model_info(FILE), omit_none=True) == model_info(FILE)


def test_class_ids_from_folders_of_any_name_are_read(tmp_path):
    """A folder whose name is not UTF-8 gives an id with lone surrogates."""
    wnids = ["caf\udce9", "tea"]
    ship(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
        tmp_path / "a.keras",
        ModelInfo(wnids=tuple(wnids)),
    )
    assert model_info(tmp_path / "a.keras") == {"wnids": wnids}
    info = read_model_info(tmp_path / "a.keras")
    assert info == ModelInfo(wnids=tuple(wnids))
    assert to_json(info, omit_none=True) == {"wnids": wnids}


def test_what_is_null_in_a_file_is_as_if_it_were_left_out(tmp_path):
    ship(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
        tmp_path / "a.keras",
        {"recipe": None, "resize_filter": None, "dataset": "shapes"},
    )
    assert model_info(tmp_path / "a.keras") == {"dataset": "shapes"}
    assert read_model_info(tmp_path / "a.keras") == ModelInfo(dataset="shapes")
