"""Trajectories and steps of a side as the tests need them, without training anything."""

from dataclasses import replace

import numpy as np

from keras_imnet64.compare.records import LayerCall, StepFacts, StepRecord, Trajectory

CALLS = (
    LayerCall("conv", "Conv2D", ("conv/kernel", "conv/bias")),
    LayerCall("norm", "BatchNormalization", ("norm/gamma",)),
    LayerCall("relu", "Activation"),
    LayerCall("logits", "Dense", ("logits/kernel",)),
)
LOSSES = (2.0, 1.9, 1.8, 1.7, 1.6)
RATES = (0.1, 0.2, 0.3, 0.2, 0.1)


def trajectory(losses=LOSSES, **changes):
    count = len(losses)
    facts = Trajectory(
        devices=("CPU:0",),
        versions={"keras": "3.15.1"},
        losses=tuple(losses),
        rates=RATES[:count],
        digests=tuple(f"batch {step}" for step in range(count)),
        seconds=(5.0, *[0.5] * (count - 1)),
        seconds_to_first_step=12.0,
        peak_memory_mb=321.0,
    )
    return replace(facts, **changes)


def step_record(step=0, **changes):
    """A step whose tensors are drawn; the bias has a gradient of rounding alone."""
    rng = np.random.default_rng(7)
    draw = lambda *shape: rng.standard_normal(shape).astype("float32")  # noqa: E731
    shapes = {"conv/kernel": (3, 4), "conv/bias": (4,), "norm/gamma": (4,), "logits/kernel": (4, 2)}
    gradients = {path: draw(*shape) for path, shape in shapes.items()}
    gradients["conv/bias"] = np.full(4, 1e-8, "float32")
    record = StepRecord(
        StepFacts(step, 2.0, 0.1, CALLS, dict.fromkeys(shapes, 1.0)),
        images=rng.integers(0, 256, (2, 4, 4, 3), "uint8"),
        labels=np.array([0, 1], "int32"),
        activations=tuple(draw(2, 4) for _ in CALLS),
        gradients=gradients,
        statistics={"norm/moving_mean": draw(4) * 1e-9, "norm/moving_variance": draw(4) + 5},
        updates={path: -0.1 * array for path, array in gradients.items()},
    )
    return replace(record, **changes)
