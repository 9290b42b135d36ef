"""Measures what single operations compute on each backend: how far apart values and gradients are.

    python benchmarks/backend_differences.py [--backends tensorflow,jax,torch]

Each backend computes in a process of its own, from the same float32 numbers, on the CPU. Printed,
as a table of Markdown, are the largest distances of values and of gradients from those of the first
backend, in units of the largest number of both; masks and ties are counted instead. Network layers
as a whole are compared by `python cli.py compare`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

Tensor = Any  # of a backend
Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Case:
    """An operation.

    Attributes:
        function: tensors -> a tensor.
        inputs: that the gradient is of, float32.
        counts: whether numbers that differ are counted, since they differ whole or not at all.
    """

    name: str
    function: Callable[..., Tensor]
    inputs: Arrays
    counts: bool = False


def cases() -> list[Case]:
    import keras
    from keras import ops

    from keras_imnet64.training.optim import make_optimizer, make_schedule

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype("float32")

    def norm(x: Tensor) -> Tensor:
        layer = keras.layers.BatchNormalization(epsilon=1e-5)
        return layer(x, training=True)

    def dropped(x: Tensor) -> Tensor:
        return keras.layers.Dropout(0.5, seed=1)(x, training=True)

    def in_bfloat16(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *xs: ops.cast(function(*[ops.cast(x, "bfloat16") for x in xs]), "float32")

    def convolve(stride: int) -> Callable[..., Tensor]:
        return lambda x, kernel: ops.conv(x, kernel, strides=stride, padding="same")

    def pool(x: Tensor) -> Tensor:
        return ops.max_pool(x, 3, 2, "same")

    schedule = make_schedule("constant", learning_rate=1.0, steps_per_epoch=1, num_epochs=1)
    muon = make_optimizer("muon", schedule)
    images, kernel = draw(8, 32, 32, 64), draw(3, 3, 64, 64) / 24
    few = rng.integers(0, 4, (8, 32, 32, 8)).astype("float32")  # most windows have ties
    far = 100 + draw(64, 8, 8, 16)
    logits = 3 * draw(64, 200)
    return [
        Case("3x3 convolution of 64 channels", convolve(1), (images, kernel)),
        Case("the same at stride 2, padding same", convolve(2), (images, kernel)),
        Case("the same in bfloat16", in_bfloat16(convolve(1)), (images, kernel)),
        Case("product of 512x512 matrices", ops.matmul, (draw(512, 512), draw(512, 512))),
        Case("batch normalisation, mean 0", norm, (draw(64, 8, 8, 16),)),
        Case("the same of 64 maps of 64x64", norm, (draw(64, 64, 64, 4),)),
        Case("batch normalisation, mean 100, deviation 1", norm, (far,)),
        Case("exact GELU", lambda x: ops.gelu(x, approximate=False), (draw(10_000),)),
        Case("log-softmax of 200 classes", ops.log_softmax, (logits,)),
        Case("max pool, no ties", pool, (draw(8, 32, 32, 8),)),
        Case("max pool, ties", pool, (few,), counts=True),
        Case("ReLU at 0", ops.relu, (np.zeros(1000, "float32"),), counts=True),
        Case("maximum(x, 0) at 0", lambda x: ops.maximum(x, 0.0), (few,), counts=True),
        Case("maximum of an axis, ties", lambda x: ops.max(x, axis=-1), (few,)),
        Case("Dropout(0.5), one seed", dropped, (np.ones(10_000, "float32"),), counts=True),
        Case(
            "Muon's orthogonal matrix of 576x64",
            lambda x: muon.zeropower_via_newtonschulz5(x, 5),
            (draw(576, 64),),
        ),
    ]


def compute(case: Case) -> list[np.ndarray]:
    """Returns the value of an operation and the gradients of its sum of weighted numbers."""
    import keras
    from keras import ops

    def total(*inputs: Tensor) -> Tensor:
        value = case.function(*inputs)
        weights = 1 + np.arange(np.prod(value.shape)).reshape(value.shape) % 7
        return ops.sum(value * ops.convert_to_tensor(weights.astype("float32")))

    backend = keras.backend.backend()
    tensors = [ops.convert_to_tensor(array) for array in case.inputs]
    value = ops.convert_to_numpy(case.function(*tensors))
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = total(*tensors)
        gradients = tape.gradient(result, tensors)
    elif backend == "jax":
        import jax

        gradients = jax.grad(total, argnums=tuple(range(len(tensors))))(*tensors)
    else:
        tensors = [tensor.requires_grad_() for tensor in tensors]
        total(*tensors).backward()
        gradients = [tensor.grad for tensor in tensors]
    return [value, *map(ops.convert_to_numpy, gradients)]


def compute_all(file: Path) -> None:
    """Writes the arrays of all cases under the backend of this process."""
    from keras_imnet64.backend.devices import choose_backend, take_devices

    choose_backend()
    take_devices(reads_data=False)
    found = {
        f"{number:02d} {index}": array
        for number, case in enumerate(cases())
        for index, array in enumerate(compute(case))
    }
    names = np.array([f"{int(case.counts)}{case.name}" for case in cases()])
    np.savez(file, names=names, **found)  # type: ignore[arg-type]  # its allow_pickle


def distance(ours: Arrays, theirs: Arrays, counts: bool) -> str:
    """Returns how far apart two lists of arrays are: a number of elements, or in their scale."""
    pairs = list(zip(ours, theirs, strict=True))
    if counts:
        differing, size = sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a in ours)
        return f"{differing:,} of {size:,} differ" if differing else "0"
    return f"{max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs):.1e}"


@click.command()
@click.option("--backends", default="tensorflow,jax", show_default=True)
@click.option("--child", "file", hidden=True, type=click.Path(path_type=Path))
def main(backends: str, file: Path | None) -> None:
    if file is not None:
        compute_all(file)
        return
    first, *others = backends.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for backend in (first, *others):
            command = [sys.executable, __file__, "--child", f"{folder}/{backend}.npz"]
            subprocess.run(command, check=True, env=os.environ | {"KERAS_BACKEND": backend})
        results = {name: dict(np.load(f"{folder}/{name}.npz")) for name in (first, *others)}
    headings = [f"{name}: {what}" for name in others for what in ("values", "gradients")]
    print(f"| distance from {first} | {' | '.join(headings)} |\n|{'---|' * (1 + len(headings))}")
    for number, name in enumerate(results[first]["names"]):

        def arrays(backend: str, number: int = number) -> list[np.ndarray]:
            prefix = f"{number:02d} "
            return [a for key, a in results[backend].items() if key.startswith(prefix)]

        cells = []
        for backend in others:
            (value, *rest), (value2, *rest2) = arrays(first), arrays(backend)
            counts = name[0] == "1"
            cells += [distance([value], [value2], counts), distance(rest, rest2, counts)]
        print(f"| {name[1:]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
