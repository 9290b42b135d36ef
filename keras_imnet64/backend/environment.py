"""Refuses or records environment variables of Keras, TensorFlow and JAX by their effect on results.

The recipe alone decides what a run computes. Therefore each variable is in one of these classes:

    refused   changes numbers by more than rounding, changes what is computed, or interrupts normal
              training; a command ends with an error if such a variable is set
    recorded  chooses among equally exact computations (threads, vector instructions, compiler
              passes), so that last bits may differ; environment.json records the value
    neither   changes no number: messages, memory, caches, devices, folders

The rows are those of Keras 3.15, TensorFlow 2.21 and JAX 0.10. A test checks that every option that
Keras and JAX read from the environment has a row. `keras_settings` handles keras.json.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keras_imnet64.core.errors import UserError, shortened
from keras_imnet64.core.files import read_small

MAX_FLAGS_BYTES = 2**16
MAX_RECORDED_CHARACTERS = 500  # per value
OFF = ("0", "n", "no", "f", "false", "off")  # as JAX reads them
ON = ("1", "y", "yes", "t", "true", "on")
UNSET = ("",)
LOGGED = ("allow", "log", "log_explicit", "none")


@dataclass(frozen=True)
class Refused:
    """Why a variable is refused.

    Attributes:
        effect: what the variable does, as the predicate of a sentence.
        harmless: values, in lower case, that have no effect.
        backend: the only backend that reads the variable; None for all.
        remedy: what to use instead, as the end of a sentence.
    """

    effect: str
    harmless: tuple[str, ...] = UNSET
    backend: str | None = None
    remedy: str = ""


def _jax(effect: str, *harmless: str) -> Refused:
    return Refused(effect, harmless or OFF, backend="jax")


REFUSED = {
    "KERAS_MAX_EPOCHS": Refused(
        "ends training early, whatever the recipe says", (), remedy=" and set train.epochs"
    ),
    "KERAS_MAX_STEPS_PER_EPOCH": Refused(
        "ends every epoch and every evaluation early",
        (),
        remedy=" and set data.steps_per_epoch",
    ),
    "KERAS_NNX_ENABLED": Refused("makes Keras use the variables of Flax", (*UNSET, *OFF)),
    "TF2_BEHAVIOR": Refused("makes TensorFlow behave as its first version", (*UNSET, *ON)),
    "TF_FUNCTION_JIT_COMPILE_DEFAULT": Refused(
        "makes XLA compile what it cannot compile",
        (*UNSET, *OFF),
        remedy="; train.xla compiles the step",
    ),
    "TF_ENABLE_AUTO_MIXED_PRECISION": Refused("computes in float16 or bfloat16", (*UNSET, *OFF)),
    "TF_ENABLE_MAXPOOL_NANPROP": Refused("changes what a pool makes of NaN", (*UNSET, *OFF)),
    "TF_CONV2D_USE_FP16_ACCUMULATE": Refused("sums up in float16", (*UNSET, *OFF)),
    "TF_FP16_CONV_USE_FP32_COMPUTE": Refused("convolves in float16", (*UNSET, *ON)),
    "TF_FP16_MATMUL_USE_FP32_COMPUTE": Refused("multiplies in float16", (*UNSET, *ON)),
    "TF_SET_ONEDNN_FPMATH_MODE": Refused("computes float32 in bfloat16", (*UNSET, "strict")),
    "ONEDNN_DEFAULT_FPMATH_MODE": Refused("computes float32 in bfloat16", (*UNSET, "strict")),
    "DNNL_DEFAULT_FPMATH_MODE": Refused("computes float32 in bfloat16", (*UNSET, "strict")),
    "NVIDIA_TF32_OVERRIDE": Refused("changes the precision of float32 on NVIDIA GPUs"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": Refused(
        "multiplies float32 as TF32 on NVIDIA GPUs", (*UNSET, *OFF), backend="torch"
    ),
    "JAX_ENABLE_X64": _jax("computes in float64 where a dtype is not named"),
    "JAX_EXPLICIT_X64_DTYPES": _jax("computes in float64, or refuses to", "warn"),
    "JAX_DEFAULT_MATMUL_PRECISION": _jax("changes the precision of float32", "default", "none"),
    "JAX_ALLOW_F16_REDUCTIONS": _jax("changes the precision of bfloat16 sums", *ON),
    "JAX_NUMPY_DTYPE_PROMOTION": _jax("refuses to combine dtypes", "standard"),
    "JAX_NUMPY_RANK_PROMOTION": _jax("refuses to broadcast", "allow", "warn"),
    "JAX_DEFAULT_PRNG_IMPL": _jax("draws other random numbers", "threefry2x32"),
    "JAX_ENABLE_CUSTOM_PRNG": _jax("makes random keys of another type"),
    "JAX_LEGACY_PRNG_KEY": _jax("refuses the random keys of Keras", "allow", "warn"),
    "JAX_THREEFRY_PARTITIONABLE": _jax("draws other random numbers", *ON),
    "JAX_RANDOM_SEED_OFFSET": _jax("draws other random numbers", "0"),
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": _jax("draws other random numbers"),
    "JAX_DISABLE_JIT": _jax("runs each operation alone instead of compiling the step"),
    "JAX_NO_EXECUTION": _jax("computes nothing"),
    "JAX_NO_TRACING": _jax("refuses to compile anything"),
    "JAX_DEBUG_NANS": _jax("breaks off where a run itself recovers from NaN and infinity"),
    "JAX_DEBUG_INFS": _jax("breaks off where a run itself recovers from NaN and infinity"),
    "JAX_ARRAY_GARBAGE_COLLECTION_GUARD": _jax(
        "ends a process whose arrays Python collects late", *LOGGED
    ),
} | {
    f"JAX_TRANSFER_GUARD{direction}": _jax("refuses to move images to a device", *LOGGED)
    for direction in ("", "_HOST_TO_DEVICE", "_DEVICE_TO_HOST", "_DEVICE_TO_DEVICE")
}

FLAGS = ("XLA_FLAGS", "TF_XLA_FLAGS")
REFUSED_FLAGS = {  # other flags choose among compiler passes
    "xla_cpu_enable_fast_math": "approximates, and assumes that there is no NaN",
    "tf_xla_cpu_global_jit": "makes XLA compile what it cannot compile",
    "xla_cpu_enable_fast_min_max": "changes what becomes of NaN",
    "xla_gpu_enable_fast_min_max": "changes what becomes of NaN",
    "xla_gpu_enable_bf16_3way_gemm": "multiplies float32 in bfloat16",
    "xla_allow_excess_precision": "changes the precision of bfloat16",
}
HARMLESS_FLAGS = {name: OFF for name in REFUSED_FLAGS} | {"xla_allow_excess_precision": ON}

_ONEDNN = ("MAX_CPU_ISA", "CPU_ISA_HINTS")
_CUDNN = (
    "DETERMINISTIC",
    "DISABLE_CONV_1X1_OPTIMIZATION",
    "USE_AUTOTUNE",
    "USE_FRONTEND",
    "USE_RUNTIME_FUSION",
    "WORKSPACE_LIMIT_IN_MB",
)
RECORDED = (
    *("XLA_FLAGS", "TF_XLA_FLAGS", "TF_JIT_COMPILE_REWRITE", "JAX_DISABLE_MOST_OPTIMIZATIONS"),
    *("TF_ENABLE_ONEDNN_OPTS", "TF_ENABLE_ZENDNN_OPTS", "TF_DISABLE_JIT_KERNELS"),
    *(f"{library}_{name}" for library in ("ONEDNN", "DNNL") for name in _ONEDNN),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_OVERRIDE_GLOBAL_THREADPOOL"),
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC"),
    *("MKL_NUM_THREADS", "MKL_DYNAMIC", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "VECLIB_MAXIMUM_THREADS"),
    *("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "NUMBA_DISABLE_JIT"),
    *("TF_DETERMINISTIC_OPS", "TF_DISABLE_SCATTER_OP_DETERMINISM"),
    *("TF_USE_DETERMINISTIC_SEGMENT_REDUCTIONS", "TF_DISABLE_RZ_CHECK"),
    *("TF_ENABLE_WINOGRAD_NONFUSED", "TF_USE_DEEP_CONV2D", "TF_USE_DEFAULT_CONV_ALGO"),
    *("TF_USE_CUBLASLT", "TF_CUBLAS_WORKSPACE_LIMIT_IN_MB", "TF_USE_ROCM_NHWC"),
    *("TF_MATMUL_AUTOTUNE_ENABLE", "TF_MATMUL_AUTOTUNE_MAX_ALGORITHMS"),
    *(f"TF_CUDNN_{name}" for name in _CUDNN),
    *("TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT", "CUBLAS_WORKSPACE_CONFIG"),
    *("CUBLAS_EMULATE_SINGLE_PRECISION", "CUBLAS_EMULATION_STRATEGY"),
    *("NCCL_ALGO", "NCCL_PROTO", "NCCL_NTHREADS", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS"),
    *("JAX_OPTIMIZATION_LEVEL", "JAX_EXEC_TIME_OPTIMIZATION_EFFORT"),
    *("JAX_MEMORY_FITTING_LEVEL", "JAX_MEMORY_FITTING_EFFORT", "JAX_COMPILER_ENABLE_REMAT_PASS"),
    *("JAX_ENABLE_PGLE", "JAX_PGLE_PROFILING_RUNS", "JAX_PGLE_AGGREGATION_PERCENTILE"),
    *("JAX_XLA_PROFILE_VERSION", "JAX_USE_SHARDY_PARTITIONER", "JAX_USE_DIRECT_LINEARIZE"),
    *("JAX_SOFTMAX_CUSTOM_JVP", "JAX_THREEFRY_GPU_KERNEL_LOWERING", "JAX_USE_MAGMA"),
    *("JAX_REMAT3", "JAX_SCAN3", "JAX_CUSTOM_VJP3", "EAGER_CONSTANT_FOLDING"),
    *("JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS", "JAX_EMBEDDED_CONSTANTS_MAX_BYTES"),
)


def check_environment(backend: str) -> None:
    """Refuses variables that would change results, and settings of JAX if it is imported.

    Raises:
        UserError: names the first such variable, its value and how to unset it.
    """
    for fault, remedy in refusals(backend):
        raise UserError(f"{fault}: {remedy}")


def refusals(backend: str | None = None) -> Iterator[tuple[str, str]]:
    """Yields (what is wrong, what to do) for each refused setting in this process.

    Args:
        backend: whose settings are checked; None for those of all backends.
    """
    rows = {n: row for n, row in REFUSED.items() if backend in (None, row.backend or backend)}
    for name, row in rows.items():
        value = os.environ.get(name)
        if value is not None and value.strip().lower() not in row.harmless:
            received = shortened(value, 60)
            fault = f'the environment variable {name} {row.effect}; received "{received}"'
            yield fault, f"`unset {name}`{row.remedy}"
        elif row.backend == "jax" and "jax" in sys.modules:
            value = _jax_setting(name.lower())
            if value is not None and value.lower() not in row.harmless:
                fault = f"JAX's setting {name.lower()} {row.effect}; received {value}"
                yield fault, "start a new process, or a new kernel, without it"
    yield from _refused_flags()


def _jax_setting(name: str) -> str | None:
    """Returns a setting of the imported JAX as text, or None if this version does not have it."""
    value = getattr(sys.modules["jax"].config, name, None)
    return None if value is None else str(getattr(value, "name", value))


def _refused_flags() -> Iterator[tuple[str, str]]:
    for variable in FLAGS:
        for flag in _flags_of(os.environ.get(variable, "")):
            name, _, value = flag.lstrip("-").partition("=")
            if name in REFUSED_FLAGS and (value.lower() or "true") not in HARMLESS_FLAGS[name]:
                fault = f'the flag "{flag}" in {variable} {REFUSED_FLAGS[name]}'
                yield fault, f"remove it from {variable}"


def _flags_of(value: str) -> list[str]:
    """Returns the flags in the value of a variable, or in the file that the value names."""
    if value.strip() and not value.strip().startswith("-"):
        try:
            value = read_small(value.strip(), MAX_FLAGS_BYTES).decode(errors="replace")
        except (OSError, ValueError):
            return []  # XLA itself refuses such a value
    return value.split()


def recorded_settings() -> dict[str, str]:
    """Returns {variable: value} of the set variables that may change last bits."""
    found = {name: os.environ[name] for name in sorted(RECORDED) if name in os.environ}
    return {name: shortened(value, MAX_RECORDED_CHARACTERS) for name, value in found.items()}


def changed_settings(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Compares two results of `recorded_settings`; returns ["NAME is 2, was not set", ...]."""

    def shown(settings: Mapping[str, str], name: str) -> str:
        return settings.get(name, "not set")

    names = sorted(name for name in {**before, **now} if before.get(name) != now.get(name))
    return [f"{name} is {shown(now, name)}, was {shown(before, name)}" for name in names]


def without_refused(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns a copy of an environment without the variables that are refused."""
    return {name: value for name, value in environment.items() if name not in REFUSED}
