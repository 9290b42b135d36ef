"""Files of named tensors: every width of float is read, what is wrapped around them comes off."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_imnet64.errors import UserError
from keras_imnet64.models.tensor_files import read_tensors

VALUES = np.array([[1, 0.5, -3]])  # exact in all of them


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_safetensors_of_every_width(dtype, tmp_path):
    save_file({"a": VALUES.astype(np.dtype(dtype))}, tmp_path / "a.safetensors")
    held = read_tensors(tmp_path / "a.safetensors")["a"]
    assert (held.shape, held.dtype) == ((1, 3), dtype)
    np.testing.assert_array_equal(np.asarray(held).astype("float32"), VALUES)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_come_off(prefix, tmp_path):
    arrays = {f"{prefix}{name}": VALUES for name in ("a.weight", "module.b")}
    save_file(arrays, tmp_path / "a.safetensors")
    assert set(read_tensors(tmp_path / "a.safetensors")) == {"a.weight", "module.b"}


# --------------------------------------------------------------------------------- with torch alone


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_pickles_of_every_width(dtype, as_zip, torch, tmp_path):
    tensor = torch.nn.Parameter(torch.from_numpy(VALUES).to(getattr(torch, dtype)))
    content = {"model": {"module.a": tensor}, "epoch": 7}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    held = read_tensors(tmp_path / "a.pt")["a"]
    assert (held.shape, held.dtype) == ((1, 3), dtype)
    np.testing.assert_array_equal(np.asarray(held), VALUES)


class Harmful:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_nothing_in_a_pickle_is_run(protocol, torch, tmp_path):
    weights, made = tmp_path / "a.bin", tmp_path / "made"
    if protocol:
        weights.write_bytes(pickle.dumps({"a": Harmful(made)}, protocol))
    else:
        torch.save({"a": Harmful(made)}, weights)
    with pytest.raises(UserError, match=r"is not a pickle of tensors alone.*nothing in it was run"):
        read_tensors(weights)
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds a list; tensors by name are needed"),
        ({"state_dict": 3, "a": 4}, "holds state_dict, a int"),
        ({"model": {}, "model_ema": {}}, "holds model and model_ema, two states"),
    ],
)
def test_what_is_no_set_of_tensors(content, sentence, torch, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=sentence):
        read_tensors(tmp_path / "a.pth")


def test_damaged_pickles(torch, tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for wrong in (b"", b"text\n" * 9, content[:1000], content[:-30]):
        (tmp_path / "a.pth").write_bytes(wrong)
        with pytest.raises(UserError, match=r"a.pth is not a (whole file of torch|pickle of)"):
            read_tensors(tmp_path / "a.pth")


def test_a_pickle_that_holds_itself_is_refused(torch, tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="wraps them more than 4 times"):
        read_tensors(tmp_path / "a.pt")


def test_tensors_without_numbers_are_refused(torch, tmp_path):
    torch.save({"a": torch.empty(3, device="meta")}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds a without its numbers"):
        read_tensors(tmp_path / "a.pt")
