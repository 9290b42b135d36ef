"""Optimizers and schedules against numbers worked out in NumPy."""

import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_imnet64.core.errors import UserError
from keras_imnet64.training import optim

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype("float32")
Y = RNG.normal(size=(8, 2)).astype("float32")
KERNEL = RNG.normal(size=(3, 2)).astype("float32")
BIAS = np.array([0.5, -0.25], "float32")
RATE = 0.1


def constant(rate=RATE):
    return optim.make_schedule("constant", learning_rate=rate, steps_per_epoch=1, num_epochs=1)


def linear_model(optimizer):
    """x [B, 3] -> logits [B, 2], compiled with the mean squared error."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs))
    model.set_weights([KERNEL, BIAS])
    model.compile(optimizer, "mean_squared_error")
    return model


def fit(optimizer, batch_size, steps=None, epochs=1, callbacks=()):
    """The weights after one run over X in order, through Model.fit."""
    model = linear_model(optimizer)
    n = None if steps is None else steps * batch_size
    model.fit(
        X[:n], Y[:n], batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return model.get_weights()


def gradients(weights, rows):
    """d mean((xW + b - y)^2) / d(W, b), by hand."""
    kernel, bias = weights
    residual = X[rows] @ kernel + bias - Y[rows]
    scale = 2 / residual.size
    return [scale * X[rows].T @ residual, scale * residual.sum(axis=0)]


def batches(size, steps):
    return [slice(i * size, (i + 1) * size) for i in range(steps)]


def sgd_by_hand(rows_of_steps, momentum=0.9, nesterov=False, decay=0.0):
    """[kernel, bias] after each step."""
    weights, velocities, seen = [KERNEL, BIAS], [0.0, 0.0], []
    for rows in rows_of_steps:
        grads = gradients(weights, rows)
        weights = [weights[0] * (1 - RATE * decay), weights[1]]
        velocities = [momentum * v - RATE * g for v, g in zip(velocities, grads, strict=True)]
        steps = velocities
        if nesterov:
            steps = [momentum * v - RATE * g for v, g in zip(velocities, grads, strict=True)]
        weights = [w + s for w, s in zip(weights, steps, strict=True)]
        seen.append(weights)
    return seen


def adam_update(gradient, step=0, epsilon=1e-7):
    """Adam's first update, rate 1: g / (|g| + epsilon / sqrt(1 - beta_2)) to a few 1e-5."""
    return gradient / (np.abs(gradient) + epsilon / math.sqrt(1 - 0.999))


def muon_update(gradient):
    """Five Newton-Schulz steps on the Nesterov momentum's direction, times 0.2 sqrt(max(n, m))."""
    x = gradient.reshape(-1, gradient.shape[-1]).astype("float64")
    size = 0.2 * math.sqrt(max(x.shape))
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return size * x.reshape(gradient.shape)


def assert_weights(actual, expected, tolerance=1e-6):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), e, rtol=tolerance, atol=tolerance)


def sgd_numbers():
    got = fit(optim.make_optimizer("sgd", constant(), momentum=0.9), 2, steps=2)
    assert_weights(got, sgd_by_hand(batches(2, 2))[-1])
    got = fit(optim.make_optimizer("sgd", constant(), nesterov=True, weight_decay=0.3), 2, steps=2)
    assert_weights(got, sgd_by_hand(batches(2, 2), nesterov=True, decay=0.3)[-1])


def adamw_numbers():
    got = fit(optim.make_optimizer("adamw", constant(), weight_decay=0.3), 8)
    kernel, bias = (RATE * adam_update(g) for g in gradients([KERNEL, BIAS], slice(8)))
    assert_weights(got, [KERNEL * (1 - RATE * 0.3) - kernel, BIAS - bias], 1e-5)


def muon_numbers():
    got = fit(optim.make_optimizer("muon", constant(), weight_decay=0.3, exclude_layers=[]), 8)
    kernel, bias = gradients([KERNEL, BIAS], slice(8))
    decayed = KERNEL * (1 - RATE * 0.3)
    expected = [decayed - RATE * muon_update(kernel), BIAS - RATE * adam_update(bias)]
    assert_weights(got, expected, 1e-5)


def lamb_numbers():
    """Two steps; the kernel's decay counts for its trust ratio, and the bias has neither."""
    decay, options = 0.3, {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "clip_norm": 0.1}
    optimizer = optim.make_optimizer("lamb", constant(), weight_decay=decay, **options)
    got = fit(optimizer, 2, steps=2)
    assert_weights(got, lamb_by_hand(batches(2, 2), decay, False, **options), 1e-5)
    optimizer = optim.make_optimizer("lamb", constant(), always_adapt=True, **options)
    got = fit(optimizer, 2, steps=2)
    assert_weights(got, lamb_by_hand(batches(2, 2), 0.0, True, **options), 1e-5)
    optimizer = optim.make_optimizer("lamb", constant(), **options)  # nothing decays or adapts
    got = fit(optimizer, 2, steps=2)
    assert_weights(got, lamb_by_hand(batches(2, 2), 0.0, False, **options), 1e-5)


def lamb_by_hand(rows_of_steps, decay, adapts, *, beta_1, beta_2, epsilon, clip_norm):
    weights, means, squares = [KERNEL, BIAS], [0.0, 0.0], [0.0, 0.0]
    for step, rows in enumerate(rows_of_steps, start=1):
        grads = gradients(weights, rows)
        norm = math.sqrt(sum((g**2).sum() for g in grads))
        assert norm > clip_norm
        grads = [g * clip_norm / norm for g in grads]
        means = [beta_1 * m + (1 - beta_1) * g for m, g in zip(means, grads, strict=True)]
        squares = [beta_2 * v + (1 - beta_2) * g**2 for v, g in zip(squares, grads, strict=True)]
        new = []
        for w, m, v, d in zip(weights, means, squares, (decay, 0.0), strict=True):
            u = m / (1 - beta_1**step) / (np.sqrt(v / (1 - beta_2**step)) + epsilon) + d * w
            ratio = np.linalg.norm(w) / np.linalg.norm(u) if d or adapts else 1.0
            new.append(w - RATE * ratio * u)
        weights = new
    return weights


OPTIMIZER_NUMBERS = {
    "sgd": sgd_numbers,
    "adamw": adamw_numbers,
    "muon": muon_numbers,
    "lamb": lamb_numbers,
}


@pytest.mark.backend
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_each_optimizer_steps_as_worked_by_hand(name):
    assert name in OPTIMIZER_NUMBERS, f"optimizer {name} has no numbers here"
    OPTIMIZER_NUMBERS[name]()


@pytest.mark.backend
@pytest.mark.parametrize("num_steps", [1, 30])
def test_adamw_keeps_all_digits_of_its_corrections(num_steps):
    """A constant gradient moves a weight by the rate in each step; 1 - 0.999 in float32 does not.

    The gradients are so large that epsilon does not count.
    """
    weight = keras.Variable(np.zeros(2), dtype="float32")
    optimizer = optim.make_optimizer("adamw", constant(), weight_decay=0.0)
    for _ in range(num_steps):
        optimizer.apply([ops.convert_to_tensor([1000.0, -2000.0])], [weight])
    moved = ops.convert_to_numpy(weight) / (num_steps * RATE)
    np.testing.assert_allclose(moved, [-1, 1], rtol=2e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_float64_variable_moves_as_one_of_float32(name):
    """TensorFlow's fused operations would end the process."""
    moved = {}
    for dtype in ("float32", "float64"):
        weight = keras.Variable(np.ones((3, 2)), dtype=dtype)
        optimizer = optim.make_optimizer(name, constant())
        for step in (1.0, 2.0):
            optimizer.apply([ops.convert_to_tensor(step * KERNEL)], [weight])
        moved[dtype] = ops.convert_to_numpy(weight)
    np.testing.assert_allclose(moved["float64"], moved["float32"], rtol=1e-5)


@pytest.mark.backend
def test_muon_leaves_the_logits_to_adam_and_decays_both_parts_but_no_bias():
    got = fit(optim.make_optimizer("muon", constant(), weight_decay=0.3), 8)
    kernel, bias = (RATE * adam_update(g) for g in gradients([KERNEL, BIAS], slice(8)))
    assert_weights(got, [KERNEL * (1 - RATE * 0.3) - kernel, BIAS - bias], 1e-5)


@pytest.mark.backend
def test_muon_takes_a_convolution_as_a_matrix_and_a_depthwise_kernel_not():
    optimizer = optim.make_optimizer("muon", constant())
    shapes = {"conv": (3, 3, 2, 4), "depthwise": (3, 3, 4, 1), "embedding": (5, 4), "scale": (4,)}
    start = {name: RNG.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    variables = [keras.Variable(value, name=name) for name, value in start.items()]
    grads = {name: RNG.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    optimizer.build(variables)
    optimizer.apply([ops.convert_to_tensor(g) for g in grads.values()])
    for variable in variables:
        update = muon_update if variable.name == "conv" else adam_update
        expected = start[variable.name] - RATE * update(grads[variable.name])
        assert_weights([variable], [expected], 1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("shape", [(72, 8), (8, 72), (9, 8)])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_muon_orthogonalises_matrices_of_any_shape_and_rank(shape, rank):
    """Long ones through their Gram matrix, where singular values of 0 become rounding."""
    matrix = RNG.normal(size=(shape[0], rank)) @ RNG.normal(size=(rank, shape[1]))
    optimizer = optim.make_optimizer("muon", constant())
    got = optimizer.zeropower_via_newtonschulz5(ops.convert_to_tensor(matrix, "float32"), 5)
    expected = muon_update(matrix) / (0.2 * math.sqrt(max(shape)))
    np.testing.assert_allclose(ops.convert_to_numpy(got), expected, atol=2e-5)


def test_muon_bears_the_rounding_of_a_gpus_products(monkeypatch):
    """Of numbers with 11 bits, as TensorFloat-32 has; a long chain of them ends far off."""
    matrix = RNG.normal(size=(72, 3)) @ RNG.normal(size=(3, 8))
    optimizer = optim.make_optimizer("muon", constant())
    exact = ops.matmul
    monkeypatch.setattr(optim.ops, "matmul", lambda a, b: exact(*map(with_11_bits, (a, b))))

    def error():
        got = optimizer.zeropower_via_newtonschulz5(ops.convert_to_tensor(matrix, "float32"), 5)
        return np.abs(ops.convert_to_numpy(got) - expected).max()

    expected = muon_update(matrix) / (0.2 * math.sqrt(72))
    assert error() < 0.02
    monkeypatch.setattr(optim, "MAX_POLYNOMIALS", 5)
    assert error() > 0.1


def with_11_bits(x):
    return ops.cast(ops.cast(x, "float16"), "float32")


@pytest.mark.backend
@pytest.mark.parametrize("adapts", [False, True])
def test_lamb_steps_as_timms(adapts, peer_torch):
    """Ten steps of gradients that are clipped in some, with timm's groups of decay."""
    timm_lamb = pytest.importorskip("timm.optim.lamb")
    weights = [peer_torch.nn.Parameter(peer_torch.tensor(w)) for w in (KERNEL, BIAS)]
    groups = [{"params": [w], "weight_decay": d} for w, d in zip(weights, (0.02, 0.0), strict=True)]
    peer = timm_lamb.Lamb(groups, lr=8e-3, always_adapt=adapts)
    optimizer = optim.make_optimizer("lamb", constant(8e-3), weight_decay=0.02, always_adapt=adapts)
    variables = [keras.Variable(w, name=n) for n, w in (("kernel", KERNEL), ("bias", BIAS))]
    optimizer.build(variables)
    rng = np.random.default_rng(1)
    for _ in range(10):
        grads = [rng.normal(scale=0.4, size=w.shape).astype("float32") for w in (KERNEL, BIAS)]
        for weight, gradient in zip(weights, grads, strict=True):
            weight.grad = peer_torch.tensor(gradient)
        peer.step()
        optimizer.apply([ops.convert_to_tensor(g) for g in grads])
        assert_weights(variables, [w.detach().numpy() for w in weights], 1e-6)


@pytest.mark.backend
def test_lamb_does_not_adapt_a_variable_that_is_zero():
    """Its trust ratio would be 0, and it would stay zero for ever."""
    variable = keras.Variable(np.zeros((2, 2), "float32"), name="kernel")
    gradient = np.array([[1.0, -2.0], [3.0, -4.0]], "float32")
    optimizer = optim.make_optimizer("lamb", constant(), weight_decay=0.1, clip_norm=100.0)
    optimizer.build([variable])
    optimizer.apply([ops.convert_to_tensor(gradient)])
    assert_weights([variable], [-RATE * np.sign(gradient)], 1e-5)


E = 10  # steps per epoch in the schedules below; 4 epochs; peak 0.8
HALF_COSINE = {q: (1 + math.cos(math.pi * q)) / 2 for q in (0.0, 0.25, 0.5, 0.75, 1.0)}
SCHEDULE_POINTS = {
    "constant": [
        ({}, {0: 0.8, 39: 0.8, 10**6: 0.8}),
        ({"warmup_epochs": 2, "by_epoch": True}, {0: 0.4, 9: 0.4, 10: 0.8, 39: 0.8}),
    ],
    "plateau": [({}, {0: 0.8, 39: 0.8})],
    "step": [
        ({"epochs": [1, 2.5], "factor": 0.5}, {0: 0.8, 9: 0.8, 10: 0.4, 24: 0.4, 25: 0.2, 99: 0.2}),
        ({"epochs": [2], "warmup_epochs": 0.5}, {0: 0.16, 3: 0.64, 4: 0.8, 5: 0.8, 20: 0.08}),
        (
            {"epochs": [1, 3], "factor": 0.5, "by_epoch": True},
            {0: 0.8, 9: 0.8, 10: 0.4, 29: 0.4, 30: 0.2, 99: 0.2},
        ),
    ],
    "cosine": [
        ({}, {10 * i: 0.8 * HALF_COSINE[i / 4] for i in range(5)} | {99: 0.0}),
        ({"final_factor": 0.5}, {0: 0.8, 20: 0.6, 40: 0.4}),
        (
            {"final_learning_rate": 0.2, "warmup_epochs": 2},
            {
                0: 0.04,
                9: 0.4,
                19: 0.8,
                20: 0.8,
                25: 0.2 + 0.6 * HALF_COSINE[0.25],
                30: 0.5,
                40: 0.2,
            },
        ),
        (
            {"warmup_epochs": 1, "warmup_learning_rate": 0.4},
            {0: 0.4, 5: 0.6, 9: 0.76, 10: 0.8, 25: 0.4, 40: 0.0},
        ),
        # the default warm-up counts epochs too: half of the peak, then all of it
        (
            {"warmup_epochs": 2, "by_epoch": True},
            {0: 0.4, 9: 0.4, 10: 0.8, 20: 0.8, 29: 0.8, 30: 0.4, 39: 0.4, 40: 0.0},
        ),
        # as timm: a line from 0.1 to 0.8 in two epochs, then what is left of a cosine over four
        (
            {
                "final_learning_rate": 0.2,
                "warmup_epochs": 2,
                "warmup_learning_rate": 0.1,
                "spans_warmup": True,
                "by_epoch": True,
            },
            {0: 0.1, 9: 0.1, 10: 0.45, 19: 0.45, 20: 0.5, 29: 0.5}
            | {step: 0.2 + 0.6 * HALF_COSINE[0.75] for step in (30, 39)}
            | {40: 0.2},
        ),
    ],
    "one_cycle": [
        # w = 0.275 * 40 = 11: up over steps 0..10, down over 10..39
        (
            {"warmup_fraction": 0.275, "div_factor": 8.0, "final_div_factor": 10.0},
            {0: 0.1, 5: 0.45, 10: 0.8, 39: 0.01, 60: 0.01},
        ),
    ],
    "linear": [
        ({}, {0: 0.8, 10: 0.6, 39: 0.02, 40: 0.0, 99: 0.0}),
        (
            {"warmup_epochs": 2, "final_factor": 0.5},
            {0: 0.04, 9: 0.4, 19: 0.8, 20: 0.8, 25: 0.7, 30: 0.6, 40: 0.4, 99: 0.4},
        ),
        ({"warmup_epochs": 2, "spans_warmup": True}, {0: 0.04, 19: 0.8, 20: 0.4, 30: 0.2, 40: 0}),
    ],
    "triangular": [
        # up over steps 0..10, down over 10..40
        (
            {"peak_fraction": 0.25, "start_factor": 0.0},
            {0: 0.0, 1: 0.08, 5: 0.4, 10: 0.8, 25: 0.4, 39: 0.8 / 30, 40: 0.0, 60: 0.0},
        ),
        # airbench94's: numpy.interp(step, [0, 9, 40], [0.2, 1.0, 0.07]) times the peak
        (
            {"final_factor": 0.07},
            {0: 0.16, 3: 0.16 + 0.64 / 3, 9: 0.8, 40: 0.056, 60: 0.056}
            | {step: 0.8 * (1 - 0.93 * (step - 9) / 31) for step in (10, 20, 39)},
        ),
        (
            {"peak_fraction": 0.25, "start_factor": 0.5, "by_epoch": True},
            {0: 0.4, 9: 0.4, 10: 0.8, 19: 0.8, 20: 1.6 / 3, 39: 0.8 / 3, 40: 0.0},
        ),
    ],
}


def schedule(name, *, steps_per_epoch=E, num_epochs=4, **options):
    return optim.make_schedule(
        name, learning_rate=0.8, steps_per_epoch=steps_per_epoch, num_epochs=num_epochs, **options
    )


@pytest.mark.backend
@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_each_schedule_at_points_worked_by_hand(name):
    assert name in SCHEDULE_POINTS, f"schedule {name} has no numbers here"
    for options, points in SCHEDULE_POINTS[name]:
        rate = schedule(name, **options)
        again = type(rate).from_config(rate.get_config())
        for step, expected in points.items():
            assert float(rate(step)) == pytest.approx(expected, rel=1e-6, abs=1e-8), (options, step)
            assert float(again(step)) == float(rate(step))


@pytest.mark.backend
def test_one_cycle_is_torchs_formula():
    """torch.optim.lr_scheduler.OneCycleLR, anneal cos: lower + (upper - lower) (1 + cos) / 2."""
    rate = schedule("one_cycle")  # 40 steps; up over 0..11, down over 11..39
    for step in range(40):
        up = step < 11
        a, b, part = (0.032, 0.8, step / 11) if up else (0.8, 3.2e-6, (step - 11) / 28)
        expected = b + (a - b) * (1 + math.cos(math.pi * part)) / 2
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.backend
def test_rates_by_epoch_are_timms(peer_torch):
    """Of its CosineLRScheduler with the defaults of its train.py, called as after each epoch."""
    from timm.scheduler import CosineLRScheduler

    weight = peer_torch.nn.Parameter(peer_torch.zeros(1))
    optimizer = peer_torch.optim.SGD([weight], lr=8e-3)
    theirs = CosineLRScheduler(optimizer, 100, lr_min=1e-6, warmup_t=5, warmup_lr_init=1e-4)
    ours = optim.make_schedule(
        "cosine",
        learning_rate=8e-3,
        steps_per_epoch=625,
        num_epochs=100,
        warmup_epochs=5,
        warmup_learning_rate=1e-4,
        final_learning_rate=1e-6,
        spans_warmup=True,
        by_epoch=True,
    )
    for epoch in range(100):
        expected = optimizer.param_groups[0]["lr"]
        for step in (0, 1, 624):
            assert float(ours(625 * epoch + step)) == pytest.approx(expected, rel=1e-5)
        theirs.step(epoch + 1)


@pytest.mark.backend
def test_step_drops_at_the_very_step_a_million_steps_on():
    rate = schedule("step", steps_per_epoch=20_010, num_epochs=60, epochs=[10, 50], factor=0.2)
    assert float(rate(200_099)) == np.float32(0.8)
    assert float(rate(200_100)) == np.float32(0.16)
    assert float(rate(1_000_499)) == np.float32(0.16)
    assert float(rate(1_000_500)) == np.float32(0.8 * 0.2**2)


@pytest.mark.backend
@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_each_schedule_is_the_same_when_compiled(name):
    rate = schedule(name, **SCHEDULE_POINTS[name][-1][0])
    if keras.backend.backend() == "jax":
        import jax

        compiled = jax.jit(rate)
    else:
        import tensorflow as tf

        compiled = tf.function(rate, jit_compile=True)
    for step in (0, 4, 9, 20, 25, 39):
        eager, traced = rate(step), compiled(ops.convert_to_tensor(step, "int32"))
        assert keras.backend.standardize_dtype(traced.dtype) == "float32"
        assert float(traced) == pytest.approx(float(eager), rel=1e-6)


@pytest.mark.backend
def test_rate_scale_multiplies_the_schedule_from_the_next_step():
    optimizer = optim.make_optimizer("sgd", constant(), momentum=0.0)

    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate_scale.assign(0.5)

    got = fit(optimizer, 8, epochs=2, callbacks=[Halve()])
    first = sgd_by_hand([slice(8)], momentum=0.0)[-1]
    halved = [w - 0.5 * RATE * g for w, g in zip(first, gradients(first, slice(8)), strict=True)]
    assert_weights(got, halved)
    assert float(optimizer.learning_rate) == pytest.approx(0.5 * RATE)


@pytest.mark.backend
def test_accumulating_two_batches_is_one_big_batch():
    optimizer = optim.make_optimizer("sgd", constant(), accumulate_steps=2, clip_norm=0.3)
    whole = optim.make_optimizer("sgd", constant(), clip_norm=0.3)
    assert_weights(fit(optimizer, 2), fit(whole, 4))
    assert int(optimizer.iterations) == int(whole.iterations) == 2


@pytest.mark.parametrize(
    "name",
    [  # under JAX the one with the most state: test_optim has a step of each there
        pytest.param(name, marks=pytest.mark.backend) if name == "lamb" else name
        for name in optim.OPTIMIZERS
    ],
)
def test_every_optimizer_counts_updates_and_not_batches(name):
    """Two updates of two batches each; Adam and LAMB correct their means by the number of updates.

    The mean of two halves is rounded otherwise than that of the whole.
    """
    halves = fit(optim.make_optimizer(name, constant(), accumulate_steps=2), 2)
    whole = fit(optim.make_optimizer(name, constant()), 4)
    assert_weights(halves, whole, 1e-5)


@pytest.mark.backend
def test_schedule_counts_updates_not_batches():
    rates = optim.make_schedule(
        "step", learning_rate=RATE, steps_per_epoch=1, num_epochs=2, epochs=[1], factor=0.5
    )
    optimizer = optim.make_optimizer("sgd", rates, momentum=0.0, accumulate_steps=2)
    got = fit(optimizer, 2)
    first = sgd_by_hand([slice(4)], momentum=0.0)[-1]
    grads = gradients(first, slice(4, 8))
    assert_weights(got, [w - 0.5 * RATE * g for w, g in zip(first, grads, strict=True)])
    assert float(optimizer.learning_rate) == pytest.approx(0.5 * RATE)


@pytest.mark.backend
@pytest.mark.parametrize("k", [1, 2])
def test_average_moves_once_per_update(k):
    optimizer = optim.make_optimizer("sgd", constant(), ema=0.9, accumulate_steps=k)
    assert optim.averaged_weights(optimizer) == {}
    got = fit(optimizer, 4 // k, epochs=2)
    seen = sgd_by_hand(batches(4, 2) * 2)
    expected = seen[0]  # the first update sets the average
    for weights in seen[1:]:
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, weights, strict=True)]
    averages = optim.averaged_weights(optimizer)
    assert list(averages) == ["logits/kernel", "logits/bias"]
    assert_weights(averages.values(), expected)
    assert_weights(got, seen[-1])  # fit has not put the averages in the weights' place


@pytest.mark.backend
def test_average_is_never_the_zeros_it_starts_from():
    optimizer = optim.make_optimizer("sgd", constant(), ema=0.9, accumulate_steps=4)
    fit(optimizer, 2, steps=1)
    assert_weights(optim.averaged_weights(optimizer).values(), [KERNEL, BIAS])


@pytest.mark.backend
def test_clipping_is_by_the_global_norm():
    got = fit(optim.make_optimizer("sgd", constant(), momentum=0.0, clip_norm=0.01), 8)
    grads = gradients([KERNEL, BIAS], slice(8))
    norm = math.sqrt(sum((g**2).sum() for g in grads))
    expected = [w - RATE * 0.01 / norm * g for w, g in zip([KERNEL, BIAS], grads, strict=True)]
    assert norm > 0.01
    assert_weights(got, expected, 1e-7)


@pytest.mark.backend
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_variable_paths_are_unique_and_the_same_in_every_process(name):
    states = {"sgd": ["momentum"], "muon": ["momentum"]}
    states |= {key: ["momentum", "velocity"] for key in ("adamw", "lamb")}
    expected = {"optimizer/iteration", "optimizer/learning_rate_scale"}
    for variable in ("kernel", "bias"):
        adam = ["velocity"] if name == "muon" else []
        for state in ["average", "gradient_accumulator", *states[name], *adam]:
            expected.add(f"optimizer/logits_{variable}_{state}")
    for _ in range(2):  # a second optimizer in a process is named as the first
        optimizer = optim.make_optimizer(name, constant(), ema=0.9, accumulate_steps=2)
        optimizer.build(linear_model(optimizer).trainable_variables)
        paths = [v.path for v in optimizer.variables]
        assert len(set(paths)) == len(paths)
        assert set(paths) == expected


def test_paths_that_keras_would_confuse_are_refused():
    a, b = keras.layers.Dense(1, name="c"), keras.layers.Dense(1, name="b_c")
    with keras.name_scope("a_b"):
        a.build((None, 1))
    with keras.name_scope("a"):
        b.build((None, 1))
    with pytest.raises(UserError, match="optimizer/a_b_c_kernel_momentum"):
        optim.make_optimizer("sgd", constant()).build(a.weights + b.weights)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: optim.make_optimizer("adam", constant()), 'did you mean "adamw"'),
        (lambda: optim.make_optimizer("sgd", constant(), momentun=0.9), 'did you mean "momentum"'),
        (lambda: optim.make_optimizer("sgd", constant(), momentum="0.9"), "must be a number"),
        (lambda: optim.make_optimizer("sgd", constant(), momentum=1.5), "momentum"),
        (lambda: optim.make_optimizer("sgd", constant(), nesterov=1), "true or false"),
        (lambda: optim.make_optimizer("sgd", constant(), clip_norm=0.0), "received 0.0"),
        (lambda: optim.make_optimizer("sgd", constant(), ema=1.0), "ema must lie between 0 and 1"),
        (lambda: optim.make_optimizer("sgd", constant(), accumulate_steps=0), "whole number"),
        (lambda: schedule("cosin"), 'did you mean "cosine"'),
        (lambda: schedule("constant", factor=0.1), 'not an option of "constant"'),
        (lambda: schedule("step", epochs=[2, 1]), "increasing"),
        (lambda: schedule("cosine", final_factor=0.1, final_learning_rate=0.1), "not both"),
        (lambda: schedule("cosine", warmup_epochs=4), "below the run's 4 epochs"),
        (lambda: schedule("one_cycle", warmup_epochs=1), "warmup_fraction"),
        (lambda: schedule("triangular", warmup_epochs=1), "peak_fraction in place of warmup_"),
        (lambda: schedule("linear", final_factor=2.0), "number from 0 to 1; received 2.0"),
        (lambda: schedule("cosine", by_epoch=True, steps_per_epoch=2.5), "received 2.5 and 4"),
        (
            lambda: schedule("cosine", warmup_epochs=1, warmup_learning_rate=0.9),
            "warmup_learning_rate must be at most the peak, 0.8; received 0.9",
        ),
        (lambda: optim.make_optimizer("lamb", constant(), always_adapt=1), "true or false"),
        (
            lambda: optim.make_optimizer("sgd", constant(), lookahead={"steps": 0}),
            "optimizer.lookahead.steps must be a whole number from 1",
        ),
    ],
)
def test_a_mistake_gets_one_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)


TWO_DEVICES = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from keras_imnet64.core.errors import UserError
from keras_imnet64.training import optim

rng = np.random.default_rng(0)
x, y = rng.normal(size=(24, 3)), rng.normal(size=(24, 2))
y[4:8] *= 9  # so that the replicas' gradients differ in size
rate = optim.make_schedule("constant", learning_rate=0.1, steps_per_epoch=3, num_epochs=1)
one = tf.distribute.get_strategy()
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name in ("sgd", "muon", "lamb"):  # of muon's two parts, one is Adam
    found = []
    for strategy in (one, two):
        with strategy.scope():
            inputs = keras.Input((3,))
            hidden = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
            model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(hidden))
            r = np.random.default_rng(1)
            model.set_weights([r.normal(size=w.shape) for w in model.get_weights()])
            optimizer = optim.make_optimizer(
                name, rate, weight_decay=0.1, ema=0.9, clip_norm=0.5, lookahead={"steps": 2},
                groups=[{"variables": "bias", "learning_rate_factor": 4.0}],
            )
            model.compile(optimizer, "mean_squared_error", jit_compile=False)
        model.fit(x, y, 8, shuffle=False, verbose=0)
        averages = optim.averaged_weights(optimizer).values()
        slow = optim.slow_weights(optimizer).values()
        copies = [s.value.values for s in slow] if strategy is two else []
        assert all(np.array_equal(*(c.numpy() for c in pair)) for pair in copies)
        found.append(model.get_weights() + [a.numpy() for a in [*averages, *slow]])
    difference = max(np.abs(a - b).max() for a, b in zip(*found))
    assert difference < 1e-6, (name, difference)
"""


@pytest.mark.slow  # test_parallel has two of the update rules
def test_clipping_on_two_devices_is_clipping_on_one():
    """And decay, averages, groups, Lookahead and each update rule with it."""

    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
