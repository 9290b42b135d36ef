"""Private parts of Keras are used in the modules that are listed here, nowhere else."""

import ast
from functools import cache
from operator import attrgetter
from pathlib import Path

import keras
import pytest

PACKAGE = Path(__file__).parents[2] / "keras_imnet64"
HOME = "models/keras_private.py"
HOMES = {HOME, "data/sources/tfds_private.py"}  # the other has a test of its own
ALLOWED = {  # names of Keras by module outside HOME, and of JAX, pickle and Optuna
    "backend/programs.py": {"_cache"},
    "data/sources/pickles.py": {"_Unpickler"},
    "sweep/search.py": {"_trial_id"},
    "training/optim.py": {
        "_accumulated_gradients",
        "_all_reduce_sum_gradients",
        "_apply_weight_decay",
        "_backend_apply_gradients",
        "_backend_update_step",
        "_clip_gradients",
        "_distribution_strategy",
        "_get_current_learning_rate",
        "_get_variable_index",
        "_iterations",
        "_learning_rate",
        "_model_variables_moving_average",
        "_momentums",
        "_should_use_adamw",
        "_track_variable",
        "_trainable_variables",
        "_update_model_variables_moving_average",
        "_use_weight_decay",
        "_velocities",
    },
}


def private_names(source):
    """Names that a module uses of others' private parts, and of Keras' classes that it extends."""
    tree = ast.parse(source)
    inherited = {node: names for kind, names in extensions(tree).items() for node in ast.walk(kind)}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("keras.src"):
                yield module
            case ast.Import(names=names):
                yield from (n.name for n in names if n.name.startswith("keras.src"))
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                yield from {name} & inherited.get(node, set())
            case ast.FunctionDef(name=name):
                yield from {name} & inherited.get(node, set())
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                yield from [name] if is_private(name) else []


def is_private(name):
    is_documented = name in ("_exit", "_replace")  # of os, and of named tuples
    return name.startswith("_") and not name.startswith("__") and not is_documented


def extensions(tree):
    """{class: private names of Keras that it inherits}, for mixins beside a Keras class too."""
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    inherited = {}
    for node in classes.values():
        bases = [ast.unparse(base) for base in node.bases]
        names = set().union(*(names_of(base) | inherited.get(base, set()) for base in bases))
        if names:
            inherited |= dict.fromkeys([node.name, *bases], names)
    return {classes[name]: names for name, names in inherited.items() if name in classes}


@cache
def names_of(base):
    """Private names of a class such as "keras.Layer", the attributes of its instances included."""
    if base.split(".")[0] != "keras":
        return set()
    base = attrgetter(base.removeprefix("keras."))(keras)
    examples = [base, *(one for one in instances() if isinstance(one, base))]
    return {name for one in examples for name in dir(one) if is_private(name)}


@cache
def instances():
    """Instances of the classes that this package extends."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    sgd = keras.optimizers.SGD(use_ema=True)
    model.compile(sgd, "mse")
    sgd.build(model.trainable_variables)
    optimizers = [sgd, keras.optimizers.AdamW(), keras.optimizers.Muon()]
    others = [keras.metrics.Mean(), keras.losses.MeanSquaredError(), keras.callbacks.Callback()]
    return [model, *model.layers, *optimizers, *others]


MODULES = sorted(str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", [module for module in MODULES if module not in HOMES])
def test_private_parts_of_keras_stay_in_their_module(module):
    found = set(private_names((PACKAGE / module).read_text()))
    assert found <= ALLOWED.get(module, set()), f"{module}: give them public names in {HOME}"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("layer._gate_dense.kernel", ["_gate_dense"]),
        ("super()._clip_gradients(g)", ["_clip_gradients"]),
        ("getattr(model, '_loss_tracker')", ["_loss_tracker"]),
        ("from keras.src.ops import nn", ["keras.src.ops"]),
        ("import keras.src", ["keras.src"]),
        ("class A(keras.Layer):\n def _flatten_layers(self): pass", ["_flatten_layers"]),
        ("class A(keras.optimizers.SGD):\n def f(self): self._iterations", ["_iterations"]),
        (
            "class M:\n def _use_weight_decay(self, v): pass\nclass A(M, keras.optimizers.SGD): 0",
            ["_use_weight_decay"],
        ),
        ("class A(keras.Layer):\n def _mine(self): self._own", []),
        ("class A:\n def _iterations(self): self._iterations; self.__dict__", []),
    ],
)
def test_a_private_name_is_found(source, names):
    assert list(private_names(source)) == names
