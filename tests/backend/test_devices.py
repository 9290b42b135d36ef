"""Which backend is chosen, which settings of Keras are refused, and what is said."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

from keras_imnet64.backend import devices as backend
from keras_imnet64.backend.devices import take_devices
from keras_imnet64.backend.keras_settings import check_keras_json, keras_settings
from keras_imnet64.core.errors import UserError


@pytest.fixture
def keras_json(tmp_path, monkeypatch):
    """The file that Keras would read, which is not there yet."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "keras.json"


@pytest.fixture
def keras_config(monkeypatch):
    """keras_config() -> the names of keras/src/backend/config.py, run once more."""
    export = SimpleNamespace(keras_export=lambda names: lambda function: function)
    monkeypatch.setitem(sys.modules, "keras.src.api_export", export)
    monkeypatch.setattr(os, "makedirs", lambda path: None)
    file = Path(keras.__file__).parent / "src" / "backend" / "config.py"
    return lambda: runpy.run_path(str(file))


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ("{", {}, "keras.json does not work for Keras"),
        ('{"backend": "theano"}', {}, "keras.json names is not known"),
        ('{"backend": "tensorflw"}', {}, 'did you mean "tensorflow"?'),
        ('{"floatx": "bfloat16"}', {"KERAS_BACKEND": "jax"}, 'received "bfloat16"'),
        ("{}", {"KERAS_BACKEND": "tensorflw"}, 'did you mean "tensorflow"?'),
        ('{"backend": "theano"}', {"KERAS_BACKEND": "jax"}, ""),
        ('{"backend": "jax", "floatx": "float32"}', {}, ""),
        ('{"backend": "jax"}', {"JAX_ENABLE_X64": "1"}, "`unset JAX_ENABLE_X64`"),
        ("{}", {"KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "1"}, "`unset JAX_ENABLE_X64`"),
        ("{}", {"KERAS_BACKEND": "tensorflow", "JAX_ENABLE_X64": "1"}, ""),
        ("{}", {"KERAS_MAX_EPOCHS": ""}, "`unset KERAS_MAX_EPOCHS`"),
    ],
)
def test_a_choice_that_keras_would_break_on(settings, environment, message, keras_json):
    keras_json.write_text(settings)
    code = (
        "from keras_imnet64.backend.devices import choose_backend\n"
        "from keras_imnet64.core.errors import UserError\n"
        "try: choose_backend()\nexcept UserError as error: print(error)"
    )
    others = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=others | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert message in child.stdout and child.stdout.count("\n") == bool(message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ("\ufeff{}", "mark of UTF-8: save"),  # Keras would pass over what such a file says
        ("\ufeff{}".encode("utf-16-le"), "mark of UTF-16: save"),
        ("{}".encode("utf-16-le"), "zero bytes"),
        ('{"floatx": "float17"}', '"float64"; received "float17"'),
        ('{"floatx": "bfloat16"}', '"float64"; received "bfloat16"'),
        ('{"floatx": ["float32"]}', 'received ["float32"]'),
        ('{"epsilon": 1}', "received 1:"),
        ('{"epsilon": NaN}', "received NaN:"),
        ('{"image_data_format": "channels"}', '"channels_first"; received "channels"'),
        ('{"nnx_enabled": true}', '"nnx_enabled" must be false; received true'),
        ('{"backend": null}', "received null"),
        ('{"floatx": "' + "\\n" * 9999 + '"}', "..."),
    ],
)
def test_settings_that_are_refused(settings, message, keras_json):
    keras_json.write_bytes(settings if isinstance(settings, bytes) else settings.encode())
    with pytest.raises(UserError) as refusal:
        check_keras_json()
    assert str(refusal.value).startswith(f"{keras_json} does not work for Keras: ")
    assert str(refusal.value).endswith(": fix or delete it")
    assert message in str(refusal.value) and len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    "settings",
    [
        '{"floatx": "bfloat16"}',
        '{"floatx": "float16"}',
        '{"floatx": "float64"}',
        '{"epsilon": 1}',
        '{"epsilon": 1e-5}',
        '{"image_data_format": "channels_first"}',
        '{"image_data_format": "channels"}',
        "[]",
    ],
)
def test_keras_refuses_the_same(settings, keras_json, keras_config):
    keras_json.write_text(settings)
    if keras_settings().fault is None:
        keras_config()
    else:
        with pytest.raises((ValueError, AttributeError)):
            keras_config()


def test_settings_that_are_no_file_are_refused_and_not_waited_for(keras_json):
    os.mkfifo(keras_json)
    assert "not a regular file" in keras_settings().fault
    keras_json.unlink()
    keras_json.mkdir()
    assert "not a regular file" in keras_settings().fault


def test_settings_that_are_right_and_settings_that_are_not_there(keras_json):
    settings = keras_settings()
    assert (settings.path, settings.exists, settings.content) == (keras_json, False, {})
    keras_json.write_text('{"floatx": "float32", "epsilon": 1e-07, "backend": "jax", "more": 1}')
    check_keras_json()
    settings = keras_settings()
    assert settings.exists and settings.content["backend"] == "jax" and settings.fault is None


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"KERAS_HOME": "{}/own"}, "{}/own/keras.json"),
        ({"KERAS_HOME": "~/own", "HOME": "{}"}, "{}/own/keras.json"),
        ({"KERAS_HOME": ""}, "keras.json"),  # of the working folder
        ({"HOME": "{}"}, "{}/.keras/keras.json"),
        ({"HOME": "{}/none"}, "/tmp/.keras/keras.json"),  # a home that cannot be written
    ],
)
def test_settings_lie_where_keras_looks(environment, place, tmp_path, monkeypatch, keras_config):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KERAS_HOME", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert keras_settings().path == Path(place.format(tmp_path))
    assert keras_config()["_config_path"] == place.format(tmp_path)


# -------------------------------------------------------------------------- a backend cannot begin


@pytest.mark.parametrize(
    ("environment", "cure"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "with JAX_PLATFORMS=cuda (AssertionError): `unset JAX_PLATF"),
        ({"JAX_PLATFORM_NAME": "gpu"}, "JAX_PLATFORM_NAME=gpu (AssertionError): `unset JAX_PLA"),
        ({}, "jax finds no device (AssertionError): `python cli.py doctor` examines it"),
    ],
)
def test_kinds_of_device_that_are_not_here(environment, cure, monkeypatch):
    import jax

    def refuse():
        raise AssertionError  # as JAX does

    for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax, "local_devices", refuse)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(UserError) as refusal:
        take_devices()
    assert cure in str(refusal.value)


def test_a_library_that_cannot_be_loaded(monkeypatch):
    def refuse():
        raise ValueError("invalid truth value 'maybe' for environment 'JAX_LOG_COMPILES'")

    monkeypatch.setattr(backend, "import_tensorflow", refuse)
    with pytest.raises(
        UserError, match=r"cannot be loaded \(invalid truth .*`python cli.py doctor"
    ):
        take_devices()


# ---------------------------------------------------------------------------------- speed on GPUs


@pytest.mark.parametrize(
    ("kind", "count", "given", "expected"),
    [
        ("gpu", 2, "UNKNOWN", "O1"),
        ("gpu", 2, "O2", "O2"),  # the user's own
        ("gpu", 1, "UNKNOWN", "UNKNOWN"),  # no reductions
        ("cpu", 2, "UNKNOWN", "UNKNOWN"),
    ],
)
def test_jax_overlaps_reductions_between_gpus(kind, count, given, expected, monkeypatch):
    import jax

    present = [SimpleNamespace(platform=kind, id=number) for number in range(count)]
    settings = {"jax_optimization_level": given}
    config = SimpleNamespace(values=settings, update=settings.__setitem__)
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    monkeypatch.setattr(jax, "config", config)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "DataParallel", lambda **arguments: arguments)
    devices = take_devices(reads_data=False)
    assert devices.count == count
    assert settings["jax_optimization_level"] == expected
    assert hasattr(jax_settings(), "optimization_level")  # the setting's name has not changed


def jax_settings():
    from jax._src import config

    return config


@pytest.mark.parametrize(
    ("gpus", "given", "expected"),
    [(1, None, "gpu_private"), (1, "global", "global"), (0, None, None)],
)
def test_tensorflow_launches_kernels_from_threads_of_their_own(gpus, given, expected, monkeypatch):
    import tensorflow as tf

    monkeypatch.setenv("TF_GPU_THREAD_MODE", "")  # what the test sets is undone
    monkeypatch.delenv("TF_GPU_THREAD_MODE")
    if given:
        monkeypatch.setenv("TF_GPU_THREAD_MODE", given)
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind: [f"GPU:{number}" for number in range(gpus)] if kind == "GPU" else ["CPU:0"],
    )
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *arguments: None)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *arguments: None)
    assert take_devices().kind == ("gpu" if gpus else "cpu")
    assert os.environ.get("TF_GPU_THREAD_MODE") == expected


def test_jax_without_data_leaves_tensorflow_out():
    code = (
        "import sys\n"
        "from keras_imnet64.backend.devices import choose_backend, take_devices\n"
        "choose_backend('jax')\n"
        "take_devices(reads_data=False)\n"
        "import keras_imnet64.training.build\n"
        "print('tensorflow' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["False"]
