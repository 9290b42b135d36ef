"""Environment variables that Keras, TensorFlow and JAX read, by what they do to a result.

What a run computes is said by its recipe alone, so each variable is one of these:

    refused   it changes numbers by more than rounding, or what is computed, or breaks off what our
              networks do lawfully; a command that meets it ends with a sentence
    recorded  it chooses among equally exact ways to the same sum (threads, vector instructions,
              compiler passes), so that last bits may differ; environment.json has its value
    neither   it changes no number: messages, memory, caches, devices, folders

The rows are those of Keras 3.15, TensorFlow 2.21 and JAX 0.10. A test walks over every option that
Keras and JAX read from the environment. The settings of keras.json are in `keras_settings`.
"""

import os
import sys
from dataclasses import dataclass

from keras_imnet64.core.errors import UserError, shortened
from keras_imnet64.core.files import read_small

FLAGS_BYTES = 2**16
MOST_RECORDED = 500  # characters of a value
OFF = ("0", "n", "no", "f", "false", "off")  # as JAX reads them
ON = ("1", "y", "yes", "t", "true", "on")
UNSET = ("",)
LOGGED = ("allow", "log", "log_explicit", "none")


@dataclass(frozen=True)
class Refused:
    """Why a variable is refused.

    Attributes:
        does: what it does, as the predicate of a sentence.
        harmless: values in lower case that do nothing.
        backend: the only one that reads it; None for all.
        instead: what to use in its place, as the end of a sentence.
    """

    does: str
    harmless: tuple = UNSET
    backend: str | None = None
    instead: str = ""


def _jax(does, *harmless):
    return Refused(does, harmless or OFF, backend="jax")


REFUSED = {
    "KERAS_MAX_EPOCHS": Refused(
        "ends training early, whatever the recipe says", (), instead=" and set train.epochs"
    ),
    "KERAS_MAX_STEPS_PER_EPOCH": Refused(
        "ends every epoch and every evaluation early",
        (),
        instead=" and set data.steps_per_epoch",
    ),
    "KERAS_NNX_ENABLED": Refused("makes Keras use the variables of Flax", (*UNSET, *OFF)),
    "TF2_BEHAVIOR": Refused("makes TensorFlow behave as its first version", (*UNSET, *ON)),
    "TF_FUNCTION_JIT_COMPILE_DEFAULT": Refused(
        "has XLA compile what it cannot", (*UNSET, *OFF), instead="; train.xla compiles the step"
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
REFUSED_FLAGS = {  # of these variables; the others choose among compiler passes
    "xla_cpu_enable_fast_math": "approximates, and assumes that there is no NaN",
    "tf_xla_cpu_global_jit": "has XLA compile what it cannot",
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


def check_environment(backend):
    """Refuse variables, and settings of a JAX that is loaded, that would change results.

    Raises:
        UserError: names the first of them, its value and how to be rid of it.
    """
    for what, cure in refusals(backend):
        raise UserError(f"{what}: {cure}")


def refusals(backend=None):
    """(what is wrong, what to do about it) for each refused setting that a backend would read.

    Args:
        backend: None for the settings of all backends.
    """
    rows = {n: row for n, row in REFUSED.items() if backend in (None, row.backend or backend)}
    for name, row in rows.items():
        value = os.environ.get(name)
        if value is not None and value.strip().lower() not in row.harmless:
            received = shortened(value, 60)
            what = f'the environment variable {name} {row.does}; received "{received}"'
            yield what, f"`unset {name}`{row.instead}"
        elif row.backend == "jax" and "jax" in sys.modules:
            value = _jax_setting(name.lower())
            if value is not None and value.lower() not in row.harmless:
                what = f"JAX's setting {name.lower()} {row.does}; received {value}"
                yield what, "start a new process, or a new kernel, without it"
    yield from _refused_flags()


def _jax_setting(name):
    """A setting of the loaded JAX as text, None where this version has none of that name."""
    value = getattr(sys.modules["jax"].config, name, None)
    return None if value is None else str(getattr(value, "name", value))


def _refused_flags():
    for variable in FLAGS:
        for flag in _flags_of(os.environ.get(variable, "")):
            name, _, value = flag.lstrip("-").partition("=")
            if name in REFUSED_FLAGS and (value.lower() or "true") not in HARMLESS_FLAGS[name]:
                what = f'the flag "{flag}" in {variable} {REFUSED_FLAGS[name]}'
                yield what, f"take it out of {variable}"


def _flags_of(value):
    """The flags that a variable holds, or that the file has which it names."""
    if value.strip() and not value.strip().startswith("-"):
        try:
            value = read_small(value.strip(), FLAGS_BYTES).decode(errors="replace")
        except (OSError, ValueError):
            return []  # which XLA itself refuses
    return value.split()


def recorded_settings():
    """{variable: value} of those set that may change last bits, for environment.json."""
    found = {name: os.environ[name] for name in sorted(RECORDED) if name in os.environ}
    return {name: shortened(value, MOST_RECORDED) for name, value in found.items()}


def changed_settings(before, now):
    """["NAME is 2, was not set", ...] of what `recorded_settings` gave twice."""

    def shown(settings, name):
        return settings.get(name, "not set")

    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    return [f"{name} is {shown(now, name)}, was {shown(before, name)}" for name in names]


def without_refused(environment):
    """A copy of an environment without the variables that are refused in it."""
    return {name: value for name, value in environment.items() if name not in REFUSED}
