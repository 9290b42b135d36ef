"""Files of named tensors: floats of every width are read, and wrappers in names are removed."""

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_imnet64.convert.namings import FLOAT_DTYPES
from keras_imnet64.convert.tensor_files import read_tensors
from keras_imnet64.core.errors import UserError

VALUES = np.array([[1, 0.5, -3]])  # exact in all of them


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_safetensors_of_every_width(dtype, tmp_path):
    save_file({"a": VALUES.astype(np.dtype(dtype))}, tmp_path / "a.safetensors")
    stored = read_tensors(tmp_path / "a.safetensors")[""]["a"]
    assert (stored.shape, stored.dtype) == ((1, 3), dtype)
    np.testing.assert_array_equal(np.asarray(stored).astype("float32"), VALUES)


def test_names_lose_what_compiling_and_sharding_add(tmp_path):
    names = ("_orig_mod.a", "b._fsdp_wrapped_module.0.c", "my_orig_mod.d", "e._orig_mod")
    save_file(dict.fromkeys(names, VALUES), tmp_path / "a.safetensors")
    found = read_tensors(tmp_path / "a.safetensors")[""]
    assert set(found) == {"a", "b.0.c", "my_orig_mod.d", "e._orig_mod"}


def test_names_that_would_coincide_are_kept(tmp_path):
    save_file({"a": VALUES, "_orig_mod.a": 2 * VALUES}, tmp_path / "a.safetensors")
    assert set(read_tensors(tmp_path / "a.safetensors")[""]) == {"a", "_orig_mod.a"}


@pytest.mark.parametrize("name", ["a.pth.tar", "a.ckpt", "weights", "a.keras"])
def test_the_content_and_not_the_suffix_decides_the_format(name, tmp_path):
    save_file({"a": VALUES}, tmp_path / name)
    assert set(read_tensors(tmp_path / name)[""]) == {"a"}


# ------------------------------------------------------------------------------------- needs torch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_torch_files_of_every_width(dtype, as_zip, torch, tmp_path):
    tensor = torch.nn.Parameter(torch.from_numpy(VALUES).to(getattr(torch, dtype)))
    content = {"model": {"a": tensor}, "epoch": 7}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    stored = read_tensors(tmp_path / "a.pt")["model"]["a"]
    assert (stored.shape, stored.dtype) == ((1, 3), dtype)
    np.testing.assert_array_equal(np.asarray(stored), VALUES)


class Harmful:
    """An object that would make a file if it were unpickled."""

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
    with pytest.raises(UserError, match=r"is (not )?a pickle .*nothing in it was run; where"):
        read_tensors(weights)
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds a list where named tensors are needed"),
        ({"state_dict": 3, 4: 5}, "holds no named tensors of torch"),
        ({"conv1.weight": VALUES}, "holds no named tensors of torch"),
        ({"state": {}, "param_groups": []}, "state of an optimizer and no network; name the file"),
        ({"optimizer": {"state": {}}, "epoch": 3}, "state of an optimizer and no network"),
    ],
)
def test_torch_files_without_named_tensors_are_refused(content, sentence, torch, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=sentence):
        read_tensors(tmp_path / "a.pth")


def test_damaged_torch_files_are_refused(torch, tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for wrong in (content[:1000], content[:-30], content[:200] + content[300:]):
        (tmp_path / "a.pth").write_bytes(wrong)
        with pytest.raises(UserError, match=r"a\.pth is not a whole file of torch"):
            read_tensors(tmp_path / "a.pth")


def test_every_dict_of_tensors_is_found_once(torch, tmp_path):
    """Neither a dict that contains itself nor one within many others is searched twice."""
    inner = {"a": torch.ones(1)}
    content = {str(i): inner for i in range(1000)} | {1: inner, "loss": torch.ones(())}
    for name in range(1000):
        content[f"self{name}"] = content
    torch.save(content, tmp_path / "a.pt")
    assert {k: set(v) for k, v in read_tensors(tmp_path / "a.pt").items()} == {
        "": {"loss"},
        "0": {"a"},
    }


def test_tensors_below_the_maximum_depth_are_not_found(torch, tmp_path):
    content = {"a": torch.ones(1)}
    for _ in range(5):
        content = {"state_dict": content}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no named tensors of torch"):
        read_tensors(tmp_path / "a.pt")


def test_tensors_that_numpy_cannot_represent_have_a_dtype_that_says_so(torch, tmp_path):
    tensors = {
        "meta": torch.empty(3, device="meta"),
        "sparse": torch.eye(3).to_sparse(),
        "quantised": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "complex": torch.ones(2, dtype=torch.complex64),
        "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    }
    for name, tensor in tensors.items():
        torch.save({name: tensor}, tmp_path / "a.pt")
        try:
            found = read_tensors(tmp_path / "a.pt")[""][name].dtype
        except UserError as refusal:  # as torch does with a nest
            assert name == "nested" and "not a pickle of tensors alone" in str(refusal)
        else:
            assert found not in FLOAT_DTYPES
