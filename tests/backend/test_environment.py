"""What keras.json, the environment and other cells of a notebook may change: nothing but last bits.

Every option that Keras and JAX read from the environment has its row in `environment` or here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_imnet64 import evaluate, fit, predict
from keras_imnet64.backend.environment import (
    FLAGS,
    HARMLESS_FLAGS,
    OFF,
    RECORDED,
    REFUSED,
    REFUSED_FLAGS,
    changed_settings,
    check_environment,
    recorded_settings,
    refusals,
)
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.errors import UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import ModelInfo

FOLDERS_AND_DEVICES = {
    "KERAS_HOME",
    "KERAS_BACKEND",
    "KERAS_TORCH_DEVICE",
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",  # read by keras.distribution.initialize alone
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
}
CHANGES_NO_NUMBER = {
    "messages": """
        CAPTURED_CONSTANTS_REPORT_FRAMES CAPTURED_CONSTANTS_WARN_BYTES DEBUG_LOG_MODULES
        DEBUG_LEAKED_CLIENTS_ON_CLEAR_BACKENDS DISTRIBUTED_DEBUG EXPLAIN_CACHE_MISSES
        HLO_SOURCE_FILE_CANONICALIZATION_REGEX INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS LOGGING_LEVEL
        LOG_CHECKPOINT_RESIDUALS LOG_COMPILES PPRINT_USE_COLOR SEND_TRACEBACK_TO_RUNTIME
        SOURCE_URL_SCHEMA TRACEBACK_FILTERING TRACEBACK_IN_LOCATIONS_LIMIT
        COMPILER_DETAILED_LOGGING_MIN_OPS DUMP_IR_MODES DUMP_IR_TO INCLUDE_DEBUG_INFO_IN_DUMPS
        PALLAS_VERBOSE_ERRORS TRACER_ERROR_NUM_TRACEBACK_FRAMES
        EXPERIMENTAL_UNSAFE_XLA_RUNTIME_ERRORS""",
    "caches": """
        COMPILATION_CACHE_CHECK_CONTENTS COMPILATION_CACHE_DIR COMPILATION_CACHE_EXPECT_PGLE
        COMPILATION_CACHE_INCLUDE_METADATA_IN_KEY COMPILATION_CACHE_MAX_SIZE
        ENABLE_COMPILATION_CACHE PERSISTENT_CACHE_ENABLE_XLA_CACHES
        PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES
        RAISE_PERSISTENT_CACHE_ERRORS REMOVE_CUSTOM_PARTITIONING_PTR_FROM_CACHE_KEY
        SHARE_BINARY_BETWEEN_HOSTS SHARE_BINARY_BETWEEN_HOSTS_TIMEOUT_MS""",
    "devices, which a run names in its first lines": """
        CPU_COLLECTIVES_IMPLEMENTATION CPU_GET_GLOBAL_TOPOLOGY_TIMEOUT_MINUTES
        CPU_GET_LOCAL_TOPOLOGY_TIMEOUT_MINUTES DEFAULT_DEVICE ENABLE_PREEMPTION_SERVICE
        ENABLE_RECOVERABILITY NUM_CPU_DEVICES PJRT_CLIENT_CREATE_OPTIONS PLATFORMS PLATFORM_NAME
        BACKEND_TARGET COORDINATOR_ADDRESS COORDINATOR_BIND_ADDRESS COORDINATOR_PORT
        LOCAL_DEVICE_IDS PARTITION_INDEX SLICE_INDEX""",
    "JAX's own name": "CUSTOM_VERSION_SUFFIX GIT_HASH NIGHTLY RELEASE",
    "functions that Keras does not call": """
        BCOO_CUSPARSE_LOWERING EXPORT_CALLING_CONVENTION_VERSION EXPORT_IGNORE_FORWARD_COMPATIBILITY
        EXPORT_IGNORE_FORWARD_COMPATIBILIY MOSAIC_ALLOW_HLO PALLAS_ENABLE_DEBUG_CHECKS
        PALLAS_POISON_BUFFERS PALLAS_USE_MOSAIC_GPU RAGGED_DOT_USE_GPU_PALLAS_TRITON_LOWERING
        RAGGED_DOT_USE_RAGGED_DOT_INSTRUCTION SERIALIZATION_VERSION USE_EMIT_PIPELINE_PRIMITIVE""",
    "checks that right programs pass": """
        AUTO_PCAST CHECK_STATIC_INDICES CHECK_TRACER_LEAKS DEBUG_KEY_REUSE DISABLE_BWD_CHECKS
        DISABLE_VMAP_SHMAP_ERROR DISALLOW_MESH_CONTEXT_MANAGER ENABLE_CHECKS
        ERROR_CHECKING_BEHAVIOR_DIVIDE ERROR_CHECKING_BEHAVIOR_NAN ERROR_CHECKING_BEHAVIOR_OOB
        MUTABLE_ARRAY_CHECKS REFS_TO_PINS REMOVE_SIZE_ONE_MESH_AXIS_FROM_TYPE THREAD_GUARD""",
}
READS = r"""(?:bool_env|int_env|getenv|environ.get)\(\s*['"](JAX_\w+)"""
OF_OTHER_NAMES = {
    "CHECK_VMA",
    "JAX2TF_ASSOCIATIVE_SCAN_REDUCTIONS",
    "JAX2TF_DEFAULT_NATIVE_SERIALIZATION",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No refused variable is set when a test begins."""
    for name in (*REFUSED, *FLAGS):
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_variable_gets_one_sentence(name, monkeypatch):
    row = REFUSED[name]
    others = {"tensorflow", "jax", "torch"} - {row.backend}
    monkeypatch.setenv(name, "37")
    with pytest.raises(UserError) as refusal:
        check_environment(row.backend or "jax")
    assert str(refusal.value).startswith(
        f'the environment variable {name} {row.effect}; received "3'
    )
    assert f": `unset {name}`" in str(refusal.value)
    if row.backend:
        [check_environment(other) for other in others]
    for value in row.harmless:
        monkeypatch.setenv(name, value.upper())
        check_environment(row.backend or "jax")


def test_every_option_that_keras_reads_has_its_row():
    sources = (Path(keras.__file__).parent / "src").rglob("*.py")
    found = {n for file in sources for n in re.findall(r'"(KERAS_[A-Z_]+)"', file.read_text())}
    assert "KERAS_MAX_EPOCHS" in found
    assert found - FOLDERS_AND_DEVICES - set(REFUSED) == set()


def test_every_key_that_keras_reads_in_keras_json_is_set_or_refused():
    source = (Path(keras.__file__).parent / "src" / "backend" / "config.py").read_text()
    keys = set(re.findall(r'_config\.get\("(\w+)"', source))
    assert keys == {"floatx", "epsilon", "image_data_format", "backend", "nnx_enabled"}


def test_every_option_that_jax_reads_has_its_row():
    from jax._src import config

    holders = config.config._value_holders.items()
    found = {name.upper() for name, holder in holders if isinstance(holder, config.State)}
    for file in Path(config.__file__).parent.rglob("*.py"):
        if "test" not in file.name:
            found |= set(re.findall(READS, file.read_text()))
    names = " ".join(CHANGES_NO_NUMBER.values()).split()
    known = {f"JAX_{name}" for name in names} | OF_OTHER_NAMES | set(REFUSED) | set(RECORDED)
    assert "JAX_ENABLE_X64" in found
    assert found - known == set()


@pytest.mark.parametrize("variable", FLAGS)
@pytest.mark.parametrize("name", REFUSED_FLAGS)
def test_flags_of_xla_that_change_more_than_last_bits(variable, name, tmp_path, monkeypatch):
    value = "true" if HARMLESS_FLAGS[name] == OFF else "false"
    flags = f"--xla_dump_to=/tmp --{name}={value}"
    (tmp_path / "flags").write_text(flags)
    for given in (flags, str(tmp_path / "flags")):
        monkeypatch.setenv(variable, given)
        with pytest.raises(
            UserError, match=f"{name}.* in {variable} .*: remove it from {variable}"
        ):
            check_environment("jax")
    monkeypatch.setenv(variable, f"--{name}={HARMLESS_FLAGS[name][0]} --xla_other=1")
    check_environment("jax")
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    check_environment("jax")


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        ("jax_enable_x64", True, "True"),
        ("jax_default_matmul_precision", "bfloat16", "bfloat16"),
        ("jax_numpy_dtype_promotion", "strict", "STRICT"),
    ],
)
def test_settings_of_a_jax_that_is_loaded(setting, value, shown):
    import jax

    before = getattr(jax.config, setting)
    assert list(refusals("jax")) == []
    try:
        jax.config.update(setting, value)
        [(what, cure)] = refusals("jax")
    finally:
        jax.config.update(setting, before)
    assert what.startswith(f"JAX's setting {setting} ") and what.endswith(f"received {shown}")
    assert cure.startswith("start a new process")


def test_what_may_change_last_bits_is_recorded(monkeypatch):
    for name in RECORDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_VAR_password", "secret")  # of other programs
    assert recorded_settings() == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("XLA_FLAGS", "x" * 9999)
    now = recorded_settings()
    assert list(now) == ["OMP_NUM_THREADS", "XLA_FLAGS"] and len(now["XLA_FLAGS"]) <= 500
    assert changed_settings({"OMP_NUM_THREADS": "4", "B": "1"}, {"OMP_NUM_THREADS": "2"}) == [
        "B is not set, was 1",
        "OMP_NUM_THREADS is 2, was 4",
    ]


def test_no_variable_is_of_two_kinds():
    names = [*REFUSED, *RECORDED]
    assert len(names) == len(set(names))


# ------------------------------------------------------------------------------------- in a process


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.utils.set_random_seed(1)
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    ship(model, path, ModelInfo(dataset="imagenet_resized/16x16"))
    return path


@pytest.fixture
def other_settings():
    """Keras' settings as another cell of a notebook may leave them."""
    names = ("floatx", "epsilon", "image_data_format", "dtype_policy")
    before = {name: getattr(keras.config, name)() for name in names}
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(0.01)
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    after = {name: getattr(keras.config, name)() for name in names}
    for name, value in before.items():
        getattr(keras.config, f"set_{name}")(value)
    assert [after["floatx"], after["epsilon"]] == ["float16", 0.01], "they must be left as found"
    assert [after["image_data_format"], after["dtype_policy"].name] == [
        "channels_first",
        "mixed_bfloat16",
    ]


@pytest.fixture(scope="module")
def scores(model_file, data_dir):
    return evaluate(model_file, data_dir=data_dir)


@pytest.mark.backend
def test_scores_do_not_depend_on_settings_of_keras(scores, other_settings, model_file, data_dir):
    assert evaluate(model_file, data_dir=data_dir) == scores


def test_nor_do_predictions_and_training(model_file, data_dir, small_recipe, tmp_path, request):
    from PIL import Image

    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    recipe = small_recipe(train={"epochs": 1})

    def results(name):
        run = fit(recipe, tmp_path / name, data_dir=data_dir)
        best = predict(model_file, tmp_path / "red.png")["images"]
        return run.metrics["model.keras"], best, run.history[0]["loss"]

    plain = results("plain")
    request.getfixturevalue("other_settings")
    assert results("other") == plain


def test_settings_are_put_back_after_an_error(other_settings):
    with pytest.raises(ZeroDivisionError), keras_defaults():
        assert keras.config.floatx() == keras.config.dtype_policy().name == "float32"
        assert keras.config.image_data_format() == "channels_last"
        assert keras.config.epsilon() == 1e-7
        raise ZeroDivisionError


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps_per_epoch"])
def test_a_limit_that_a_program_has_set(limit, monkeypatch):
    monkeypatch.setattr(f"keras.src.backend.config._{limit.upper()}", 2)
    with pytest.raises(UserError, match=rf"setting {limit} .*received 2: call .*set_{limit}\(None"):
        build_model("tiny_cnn1", image_size=32, num_classes=10)


# ------------------------------------------------------------------------------- in another process


def test_keras_json_changes_no_score(scores, model_file, data_dir, tmp_path):
    settings = {"floatx": "float16", "epsilon": 0.01, "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    words = ("evaluate", model_file, "--data-dir", data_dir, "--json")
    child = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "cli.py", *words],
        env=os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "tensorflow"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout) == scores
