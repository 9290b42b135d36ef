"""Lookahead (arXiv:1907.08610), step by step by hand."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_imnet64.training import optim

START, GRADIENT, RATE = np.array([2.0, -1.0]), np.array([1.0, 3.0]), 0.1


def make(name="sgd", **options):
    schedule = optim.make_schedule("constant", learning_rate=RATE, steps_per_epoch=1, num_epochs=1)
    return optim.make_optimizer(name, schedule, **options)


def by_hand(count, steps, factor, momentum):
    """[(weights, slow weights)] after each update; the momentum goes on at a synchronisation."""
    weights, slow, velocity, seen = START, START, 0.0, []
    for number in range(1, count + 1):
        velocity = momentum * velocity - RATE * GRADIENT
        weights = weights + velocity
        if number % steps == 0:
            weights = slow = slow + factor * (weights - slow)
        seen.append((weights, slow))
    return seen


@pytest.mark.backend
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("steps", "factor"), [(3, 0.5), (1, 0.25), (2, 1.0)])
def test_slow_weights_follow_after_every_so_many_updates(steps, factor, compiled):
    """Weights that were set after the optimizer was built are where the slow weights start."""
    variable = keras.Variable(np.zeros(2, "float32"), name="kernel")
    optimizer = make(momentum=0.5, lookahead={"steps": steps, "factor": factor})
    optimizer.build([variable])
    variable.assign(START)
    apply = optimizer_step(optimizer, variable, compiled)
    for weights, slow in by_hand(7, steps, factor, momentum=0.5):
        apply()
        np.testing.assert_allclose(variable.numpy(), weights, rtol=1e-6)
        [found] = optim.slow_weights(optimizer).values()
        np.testing.assert_allclose(found.numpy(), slow, rtol=1e-6)


def optimizer_step(optimizer, variable, compiled):
    gradient = ops.convert_to_tensor(GRADIENT, "float32")
    if not compiled:
        return lambda: optimizer.apply([gradient])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: optimizer.apply([gradient]), jit_compile=True)
    import jax

    step = jax.jit(optimizer.stateless_apply)

    def apply():
        state = [v.value for v in optimizer.variables]
        [weights], state = step(state, [gradient], [variable.value])
        variable.assign(weights)
        for v, value in zip(optimizer.variables, state, strict=True):
            v.assign(value)

    return apply


@pytest.mark.backend
def test_updates_count_and_not_the_batches_that_are_accumulated():
    variable = keras.Variable(START.astype("float32"), name="kernel")
    optimizer = make(momentum=0.5, lookahead={"steps": 2}, accumulate_steps=3, ema=0.5)
    optimizer.build([variable])
    averages = None
    for weights, slow in by_hand(5, 2, 0.5, momentum=0.5):
        for _ in range(3):
            optimizer.apply([ops.convert_to_tensor(GRADIENT, "float32")])
        np.testing.assert_allclose(variable.numpy(), weights, rtol=1e-6)
        np.testing.assert_allclose(optim.slow_weights(optimizer)["kernel"].numpy(), slow, rtol=1e-6)
        averages = weights if averages is None else 0.5 * averages + 0.5 * weights
    average = optim.averaged_weights(optimizer)["kernel"]  # of what each update leaves
    np.testing.assert_allclose(average.numpy(), averages, rtol=1e-6)


@pytest.mark.backend
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_takes_it_and_keeps_slow_weights_in_its_state(name):
    variable = keras.Variable(np.ones((2, 2), "float32"), name="kernel")
    optimizer = make(name, lookahead={"steps": 1, "factor": 0.5})
    other = make(name)
    twin = keras.Variable(np.ones((2, 2), "float32"), name="kernel")
    optimizer.build([variable])
    other.build([twin])
    gradient = ops.convert_to_tensor([[1.0, -2.0], [3.0, 4.0]], "float32")
    optimizer.apply([gradient])
    other.apply([gradient])
    np.testing.assert_allclose(variable.numpy(), (1 + twin.numpy()) / 2, rtol=1e-5)
    assert "optimizer/kernel_slow" in [v.path for v in optimizer.variables]
    assert optim.slow_weights(other) == {}
