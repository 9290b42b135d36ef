"""Files without weights are refused with what they are and what to do; no torch is needed."""

import io
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from keras_imnet64.convert.weight_formats import LEGACY_TORCH_MAGIC, detect_format
from keras_imnet64.core.errors import UserError


def zipped(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return content.getvalue()


def refusal_of(path):
    with pytest.raises(UserError) as refusal:
        detect_format(path)
    message = str(refusal.value)
    assert message.startswith(str(path)) and message.isprintable()
    return message.removeprefix(f"{path} ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (save({"a": np.ones(1)}), "safetensors"),
        (save({"a": np.ones(1)})[:20], "safetensors"),  # cut short, for its library to say so
        (zipped("archive/data.pkl", "archive/version"), "torch"),
        (LEGACY_TORCH_MAGIC + b"\x80\x02M\xe9\x03.", "torch"),
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pth.tar", "w.ckpt", "w.html", "w"])
def test_the_format_is_detected_by_the_content(content, expected, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert detect_format(tmp_path / name) == expected


def test_safetensors_whose_length_looks_like_another_signature(tmp_path):
    """The length of the header comes first, and may equal the signature of another format."""
    for length in (0x80, 0x280, 0x8B1F, 0x4034B50):
        header = b'{"__metadata__": {}}'.ljust(length)
        (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + header)
        assert detect_format(tmp_path / "a") == "safetensors"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 46830571\n"
OTHERS = (
    (b"", "is empty; fetch the file itself"),
    (POINTER, "is a pointer of Git LFS to a file, not the file; `git lfs pull` fetches it"),
    (b"\n<!DOCTYPE html><p>Sign in", "is a web page or an error message of a server"),
    (b'<?xml version="1.0"?><Error>', "is a web page or an error message of a server"),
    (b"Entry not found", r'is a text \("Entry not found"\)'),
    (b'{"error": "gated\x1b[2J"}', "is not a known file of weights"),
    (json.dumps({"weight_map": {"a": "b"}}).encode(), "is the index of weights that are split"),
    (b"\x89HDF\r\n\x1a\n\0", "is an HDF5 file, as Keras writes weights"),
    (b"\x1f\x8b\x08", "is packed with gzip; unpack it with gunzip"),
    (b"BZh9", "is packed with bzip2"),
    (b"\xfd7zXZ\0", "is packed with xz"),
    (b"\x28\xb5\x2f\xfd", "is packed with zstd"),
    (b"a" * 257 + b"ustar", "is a tar archive; unpack it and name"),
    (b"\x08\x07\x12\x07pytorch\x1a", "is an ONNX model"),
    (b"\x08\x0a:\x90\x01", "is an ONNX model"),
    (bytes(50) + bytes.fromhex("57fb808b247547db"), "is a file of a TensorFlow checkpoint"),
    (b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
    (b"\x81\xa6params", "is a MessagePack file of Flax"),
    (pickle.dumps({"a": 1}, 2), "is a pickle that torch.save did not write, and nothing in it wa"),
    (pickle.dumps({"a": 1}, 5), "is a pickle that torch.save did not write, and nothing in it wa"),
    (pickle.dumps({"a": 1}, 0), "is a text"),
    (b"\xff" * 99, "is not a known file of weights; files of the kinds .safetensors, .pth"),
    (b"\xff" * 8192, "is not a known file of weights"),
    ("é: 1\n".encode() * 2000, "is a text"),
    (bytes(8192), "is not a known file of weights"),
    (zipped("m/data.pkl", "m/constants.pkl", "m/code/a.py"), "is a TorchScript program"),
    (zipped("m/archive_format", "m/models/model.json"), "is a program of torch.export"),
    (zipped("config.json", "model.weights.h5"), "is a model file of Keras already"),
    (zipped("a.npy", "b.npy"), r"is an archive of NumPy arrays \(.npz\)"),
    (zipped("a.pth", "b.txt", "c", "d"), "is a zip archive with a.pth, b.txt, c and 1 more; unpa"),
    (zipped(), "is not a known file of weights"),
    (zipped("a/data.pkl")[:-9], "is not a whole file of torch: File is not a zip file; fetch"),
)


@pytest.mark.parametrize(("content", "sentence"), OTHERS)
def test_other_files_are_refused_with_what_they_are(content, sentence, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    assert re.match(sentence, refusal_of(tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "w-00002-of-00002.bin"])
def test_shards_are_recognised_by_their_names(name, tmp_path):
    for content in (save({"a": np.ones(1)}), zipped("a/data.pkl")):
        (tmp_path / name).write_bytes(content)
        sentence = "is one part of weights that are split over 2 files; load them in Python and"
        assert refusal_of(tmp_path / name).startswith(sentence)


@pytest.mark.parametrize("name", ["model.ckpt.data-00000-of-00001", "frozen.pb"])
def test_files_of_tensorflow_are_recognised_by_their_names(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x0a" * 99)
    assert refusal_of(tmp_path / name).startswith("is a file of a TensorFlow checkpoint or graph")


def test_a_single_shard_is_a_whole_file(tmp_path):
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(save({"a": np.ones(1)}))
    assert detect_format(tmp_path / "model-00001-of-00001.safetensors") == "safetensors"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((".metadata", "__0_0.distcp"), "is a distributed checkpoint of PyTorch (FSDP); `python"),
        (("global_step10", "latest"), "is a checkpoint of DeepSpeed; its own zero_to_fp32.py"),
        (("zero_to_fp32.py",), "is a checkpoint of DeepSpeed"),
        (("checkpoint", "m.ckpt-1.index"), "is a checkpoint or SavedModel of TensorFlow"),
        (("saved_model.pb",), "is a checkpoint or SavedModel of TensorFlow"),
        (("data.pkl", "version", "data"), "is an unpacked file of torch.save"),
        (("a.txt", "m.safetensors"), "is a folder with m.safetensors, not a file; name the file"),
        ((), "is a folder, not a file; name the file of weights in it"),
    ],
)
def test_folders_are_refused_with_what_they_are(names, sentence, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    assert refusal_of(tmp_path).startswith(sentence)


def test_the_name_of_a_tensorflow_checkpoint_is_recognised(tmp_path):
    (tmp_path / "model.ckpt.index").touch()
    assert refusal_of(tmp_path / "model.ckpt").startswith("is the name of a TensorFlow checkpoint")
    assert refusal_of(tmp_path / "other").startswith("cannot be read: No such file")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    assert refusal_of(tmp_path / "pipe.pth").startswith("is not a file")
