"""`benchmarks/training_operations.py`: what counts as a limit, its rounds, and its mistakes."""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def script():
    return import_module("training_operations")


def test_a_gradient_of_a_bias_is_told_from_other_products(script):
    """The profiler sees a step of a convolution, a product, and our kernel that adds a bias."""
    from keras_imnet64.training.kernels import bias_add

    images = tf.random.stateless_normal((2, 8, 8, 3), (0, 1))
    kernel = tf.Variable(tf.random.stateless_normal((3, 3, 3, 4), (0, 2)))
    dense = tf.Variable(tf.random.stateless_normal((4, 5), (0, 3)))
    bias = tf.Variable(tf.zeros(5))

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            features = tf.reduce_mean(tf.nn.conv2d(images, kernel, 1, "SAME"), (1, 2))
            loss = tf.reduce_sum(bias_add(features @ dense, bias) ** 2)
        gradients = tape.gradient(loss, [kernel, dense, bias])
        return {"loss": loss, "norm": tf.linalg.global_norm(gradients)}

    step()
    found = script.milliseconds_of_operations(step, 2)
    products = [name for name in found if script.PRODUCTS.search(name)]
    plain = {re.sub("^(Mkl|Native|Fused)+", "", name) for name in products}  # as oneDNN has them
    assert plain == {"Conv2D", "Conv2DBackpropFilter", "MatMul"}
    assert found["bias gradient"] > 0
    assert set(found) - {*products, "bias gradient"}  # other operations


def test_the_step_is_compared_with_convolutions_and_products_alone(script, capsys):
    operations = {"FusedConv2D": 30.0, "BatchMatMulV2": 8.0, "Einsum": 2.0}
    others = {"bias gradient": 20.0, "FusedBatchNormV3": 40.0, "Identity": 0.1}
    script.show("float32", 16, 100.0, operations | others)
    lines = [line.removeprefix("float32").strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["40.0", "ms", "40.0", "%", "FusedBatchNormV3"]
    assert not any("Identity" in line for line in lines)  # too small a share
    assert lines[-3:] == [
        "40.0 ms of convolutions and matrix products, one at a time",
        "100.0 ms of a step, 160.0 images/s",
        "2.50 times the limit",
    ]


def test_the_processes_take_turns_in_changing_order(script, monkeypatch):
    answers = {
        "step": iter([{"all": value} for value in (5.0, 1.0, 3.0)]),
        "operations": iter([{"Conv2D": 2.0}, {"Conv2D": 4.0, "Mul": 6.0}, {"Conv2D": 3.0}]),
    }
    asked = []

    class FakeConversation:
        def __init__(self, side):
            self.side = side

        def __enter__(self):
            return self

        def __exit__(self, *error):
            asked.append(f"end of {self.side.label}")

        def answer(self):
            return {}

        def ask(self, line):
            asked.append(self.side.name)
            return next(answers[self.side.name])

    monkeypatch.setattr(script, "Conversation", FakeConversation)
    measured = script.measure(["a recipe"], "float32", 3)
    assert measured == (3.0, {"Conv2D": 3.0, "Mul": 0.0})
    there, back = ["step", "operations"], ["operations", "step"]
    assert asked[:6] == there + back + there
    assert asked[6:] == ["end of operations float32", "end of step float32"]


@pytest.mark.parametrize("name", ["training_operations", "training_kernels"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("wrn36_22",), 'did you mean "wrn36_2"?'),
        (("wrn36_2", "--set", "train.epochs=0"), "train.epochs"),
        (("wrn36_2", "--batch-size", "0"), "'--batch-size': 0"),
        (("wrn36_2", "--steps", "0"), "'--steps': 0"),
        (("wrn36_2", "--rounds", "0"), "'--rounds': 0"),
    ],
)
def test_a_mistake_is_one_sentence(name, arguments, words):
    main = import_module(name).main
    done = CliRunner().invoke(main, ["--batch-size", "2", *arguments])
    assert done.exit_code == 2
    *usage, line = done.stderr.splitlines()
    assert line.startswith("Error: ") and words in line
    assert not usage or usage[0].startswith("Usage: ")  # of click


def test_a_step_without_products_has_no_limit(script):
    with pytest.raises(script.RunFailed, match="no convolution or matrix product"):
        script.show("float32", 1, 1.0, {"Mul": np.float64(1.0)})
