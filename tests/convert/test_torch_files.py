"""Checkpoints of training programs are read with torch, and nothing in them is run."""

import argparse
import pathlib
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from keras_imnet64.convert.tensor_files import read_tensors
from keras_imnet64.convert.torch_files import REPLACEMENTS, Placeholder, load_torch_file
from keras_imnet64.core.errors import UserError

torch = pytest.importorskip("torch")


def temporary_class(monkeypatch, name, base=object):
    """Makes a class of a package that exists only while a file is written."""
    module, _, last = name.rpartition(".")
    for end in range(1, name.count(".") + 1):
        package = ".".join(name.split(".")[:end])
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    made = type(last, (base,), {"__module__": module})
    setattr(sys.modules[module], last, made)
    return made


def save_and_forget(content, path, monkeypatch, **options):
    torch.save(content, path, **options)
    monkeypatch.undo()


def lightning_content(monkeypatch):
    """What Lightning 2.6 writes with OmegaConf 2.4 and, in `old`, what Lightning 1.5 wrote."""
    attributes = temporary_class(
        monkeypatch, "pytorch_lightning.utilities.parsing.AttributeDict", dict
    )
    config = temporary_class(monkeypatch, "omegaconf.dictconfig.DictConfig")()
    config.__dict__ |= {"_content": {"a": int}, "_cache": defaultdict(dict, {"b": {}})}
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.6.6",
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(2.5)}},
        "optimizer_states": [{"state": {0: {"momentum": torch.ones(2)}}, "param_groups": []}],
        "hyper_parameters": {"config": config, "old": attributes(lr=0.1)},
    }


def timm_content(monkeypatch):
    """What timm 1.0.31 writes with NumPy 2, and torchvision's references without the metric."""
    return {
        "args": argparse.Namespace(lr=0.1, output=pathlib.PosixPath("out")),
        "metric": np.float64(71.5),
        "rng": np.arange(3),
        "amp_scaler": {"scale": 65536.0},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{}]},
    }


@pytest.mark.parametrize("beside", [lightning_content, timm_content])
@pytest.mark.parametrize("as_zip", [True, False])
def test_other_content_of_checkpoints_is_replaced(beside, as_zip, tmp_path, monkeypatch):
    state = OrderedDict(a=torch.tensor([1.0, 2.0]))
    content = beside(monkeypatch) | {"state_dict": state}
    path = tmp_path / "last.ckpt"
    save_and_forget(content, path, monkeypatch, _use_new_zipfile_serialization=as_zip)
    np.testing.assert_array_equal(read_tensors(path)["state_dict"]["a"], [1, 2])


def test_classes_are_replaced_only_while_a_file_is_read(tmp_path):
    torch.save({"a": torch.ones(1), "args": argparse.Namespace()}, tmp_path / "a.pth")
    before = torch.serialization.get_safe_globals()
    read_tensors(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"\x80\x02garbage")
    with pytest.raises(UserError):
        read_tensors(tmp_path / "b.pth")
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(Exception, match=r"argparse\.Namespace was not an allowed global"):
        torch.load(tmp_path / "a.pth", weights_only=True)


def write_pickle(path, pickled):
    """Writes a file of torch with a pickle made by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled)
        archive.writestr("archive/version", b"3\n")


def object_of(name, arguments=b""):
    """A pickled object, made by calling its class."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n(".encode() + arguments + b"tR"


@pytest.mark.parametrize("name", [name for _, name in REPLACEMENTS])
def test_every_replaced_class_becomes_a_placeholder(name, tmp_path):
    """Each is called without arguments and is given a state; none is an object of its class."""
    write_pickle(tmp_path / "a.pt", object_of(name) + b"}X\x01\0\0\0aK\x01sb.")
    found = load_torch_file(tmp_path / "a.pt")
    assert type(found) in (Placeholder, OrderedDict)
    assert type(found) is OrderedDict or vars(found) == {}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("os.mkdir", "os.mkdir"),
        ("posix.system", "posix.system"),
        ("builtins.eval", "eval"),
        ("pathlib.Path", "pathlib.Path"),
        ("mine.Config", "mine.Config"),
    ],
)
def test_an_unknown_class_is_refused_by_name_and_not_called(name, shown, tmp_path):
    made = tmp_path / "made"
    argument = b"X" + len(str(made)).to_bytes(4, "little") + str(made).encode()
    path = tmp_path / "a.pt"
    write_pickle(path, b"}X\x01\0\0\0a" + object_of(name, argument) + b"s.")
    sentence = (
        rf"not a pickle of tensors alone \(it has {shown}\), and nothing in it was run; where"
    )
    with pytest.raises(UserError, match=sentence):
        load_torch_file(path)
    write_pickle(path, object_of(name, argument) + b".")
    sentence = f"is a whole pickled object of the class {shown}, such as"
    if "." in shown:
        with pytest.raises(UserError, match=sentence):
            load_torch_file(path)
    assert not made.exists()


def test_a_pickled_network_is_refused_by_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    sentence = r"is a whole pickled object of the class torch\.nn\.modules\.linear\.Linear, such as"
    with pytest.raises(UserError, match=sentence):
        load_torch_file(tmp_path / "a.pth")
