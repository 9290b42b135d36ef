"""Groups of variables: factors on the rate and on decay, worked by hand, and those refused."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.optimizers import GroupOptions
from keras_imnet64.training import optim
from keras_imnet64.training.fit import fit
from keras_imnet64.training.groups import group_of_each
from keras_imnet64.training.loss import add_l2
from keras_imnet64.training.setup import check_setup

RATE, DECAY = 0.1, 0.3
START = {"body/kernel": [[2.0, -1.0]], "body/bias": [0.5, 0.25], "head/kernel": [[1.0], [3.0]]}
GRADIENTS = {"body/kernel": [[1.0, 2.0]], "body/bias": [-1.0, 3.0], "head/kernel": [[2.0], [-1.0]]}
GROUPS = [
    {"variables": "/bias$", "learning_rate_factor": 64.0},
    {"variables": "^head/", "learning_rate_factor": 0.5, "weight_decay_factor": 2.0},
    {"variables": "^(head|body)/k", "weight_decay_factor": 0.0},  # the head is taken already
]
FACTORS = {"body/kernel": (1.0, 0.0), "body/bias": (64.0, 1.0), "head/kernel": (0.5, 2.0)}


def fresh_variables():
    variables = []
    for path, value in START.items():
        layer, name = path.split("/")
        with keras.name_scope(layer):
            variables.append(keras.Variable(np.array(value, "float32"), name=name))
    return variables


def update(optimizer, variables):
    grads = [np.array(GRADIENTS[v.path], "float32") for v in variables]
    optimizer.apply([ops.convert_to_tensor(g) for g in grads])


def steps(name, count=2, **options):
    """{path: weights} after updates with the same gradients."""
    variables = fresh_variables()
    optimizer = optim.make_optimizer(
        name,
        optim.make_schedule("constant", learning_rate=RATE, steps_per_epoch=1, num_epochs=1),
        weight_decay=DECAY,
        **options,
    )
    optimizer.build(variables)
    for _ in range(count):
        update(optimizer, variables)
    return {v.path: ops.convert_to_numpy(v) for v in variables}


@pytest.mark.backend
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_has_the_rate_of_each_group_inside_its_velocity(nesterov):
    found = steps("sgd", momentum=0.9, nesterov=nesterov, groups=GROUPS)
    for path, start in START.items():
        rate_factor, decay_factor = FACTORS[path]
        rate = RATE * rate_factor
        decay = rate * DECAY * decay_factor if path.endswith("kernel") else 0.0
        weights, velocity, gradient = np.array(start), 0.0, np.array(GRADIENTS[path])
        for _ in range(2):
            weights = weights * (1 - decay)
            velocity = 0.9 * velocity - rate * gradient
            weights = weights + (0.9 * velocity - rate * gradient if nesterov else velocity)
        np.testing.assert_allclose(found[path], weights, rtol=1e-5)


@pytest.mark.backend
def test_an_accumulated_batch_decays_once_with_the_factors_of_each_group():
    """Gradients of 1.5 and 0.5 times GRADIENTS are those of one batch; SGD with momentum."""
    schedule = optim.make_schedule("constant", learning_rate=RATE, steps_per_epoch=1, num_epochs=1)
    optimizer = optim.make_optimizer(
        "sgd", schedule, weight_decay=DECAY, momentum=0.9, accumulate_steps=2, groups=GROUPS
    )
    variables = fresh_variables()
    optimizer.build(variables)
    expected = {path: np.array(start) for path, start in START.items()}
    velocities = dict.fromkeys(START, 0.0)
    for scale in (1.5, 0.5, 1.5, 0.5):
        grads = [scale * np.array(GRADIENTS[v.path], "float32") for v in variables]
        optimizer.apply([ops.convert_to_tensor(g) for g in grads])
        for path, (rate_factor, decay_factor) in FACTORS.items() if scale == 0.5 else ():
            rate = RATE * rate_factor
            decay = rate * DECAY * decay_factor if path.endswith("kernel") else 0.0
            velocities[path] = 0.9 * velocities[path] - rate * np.array(GRADIENTS[path])
            expected[path] = expected[path] * (1 - decay) + velocities[path]
        for variable in variables:
            found = ops.convert_to_numpy(variable)
            np.testing.assert_allclose(found, expected[variable.path], rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [  # under JAX the one with the most state: test_optim has a step of each there
        pytest.param(name, marks=pytest.mark.backend) if name == "lamb" else name
        for name in optim.OPTIMIZERS
    ],
)
def test_each_optimizer_gives_a_group_what_its_rate_and_decay_would_give(name):
    """A group's variables go where all variables go with the group's rate and decay."""
    options = {"nesterov": False} if name == "sgd" else {}
    found = steps(name, groups=GROUPS, **options)
    for path, (rate_factor, decay_factor) in FACTORS.items():
        schedule = optim.make_schedule(
            "constant", learning_rate=RATE * rate_factor, steps_per_epoch=1, num_epochs=1
        )
        optimizer = optim.make_optimizer(
            name, schedule, weight_decay=DECAY * decay_factor, **options
        )
        variables = fresh_variables()
        optimizer.build(variables)
        for _ in range(2):
            update(optimizer, variables)
        [alone] = [ops.convert_to_numpy(v) for v in variables if v.path == path]
        np.testing.assert_allclose(found[path], alone, rtol=1e-5)
    plain = steps(name, **options)
    assert not any(np.allclose(found[path], plain[path]) for path in START)


@pytest.mark.backend
def test_clipping_comes_before_the_factors():
    found = steps("sgd", count=1, momentum=0.0, clip_norm=1.0, groups=GROUPS)
    norm = np.sqrt(sum((np.array(g) ** 2).sum() for g in GRADIENTS.values()))
    expected = np.array(START["body/bias"]) - 6.4 * np.array(GRADIENTS["body/bias"]) / norm
    np.testing.assert_allclose(found["body/bias"], expected, rtol=1e-5)


@pytest.mark.backend
def test_the_decay_factor_scales_the_l2_penalty_too():
    """Of kernels, gammas and, with "all", biases; 0 leaves no penalty to compute."""
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(1, name="head")(inputs)
    model = keras.Model(inputs, outputs)
    model.set_weights([np.array([[1.0], [2.0]]), np.array([3.0])])
    groups = [GroupOptions(variables="bias", weight_decay_factor=0.25)]
    add_l2(model, 0.5, "all", groups)
    assert sum(float(loss) for loss in model.losses) == pytest.approx(0.5 * 5 + 0.125 * 9)
    kernel, bias = model.trainable_variables
    kernel.regularizer = bias.regularizer = None
    add_l2(model, 0.5, "weights", groups)
    assert bias.regularizer is None
    with pytest.raises(UserError, match=r"loss\.l2 penalises head/kernel, whose layer has a reg"):
        add_l2(model, 0.5, "weights", groups)
    kernel.regularizer = None
    add_l2(model, 0.5, "all", [GroupOptions(variables="bias", weight_decay_factor=0.0)])
    assert bias.regularizer is None and kernel.regularizer is not None


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (["^had/"], r'groups\.0\.variables must match the path .*"body/kernel"; received "\^had/"'),
        (["/"], r"must not match every trainable variable; received"),
        (["^head/", "ad/kern"], r"groups\.1\..* no group above it matches; received .ad/kern"),
    ],
)
def test_a_group_that_applies_to_nothing_or_everything_is_refused(patterns, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        group_of_each([GroupOptions(variables=p) for p in patterns], list(START))
    assert "\n" not in str(caught.value)


def test_groups_are_checked_before_any_data_is_read(small_recipe, tmp_path):
    recipe = small_recipe(optimizer={"groups": [{"variables": "nowhere"}]})
    with pytest.raises(UserError, match=r"groups\.0\.variables must match"):
        fit(recipe, tmp_path / "run", data_dir=tmp_path / "no data")
    assert not (tmp_path / "run").exists()


BETAS = {"variables": "/beta$", "weight_decay_factor": 0.0}


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"optimizer": {"weight_decay": 0.1}, "loss": {"l2": 0.0}}, "no decay to multiply"),
        ({"loss": {"l2": 0.1}}, r'received 0\.0 for "/beta\$", such as stem_bn/beta'),
        ({"loss": {"l2": 0.1, "l2_of": "all"}}, None),
    ],
)
def test_a_decay_factor_for_variables_without_decay_is_refused(sections, sentence, small_recipe):
    sections = {**sections, "optimizer": sections.get("optimizer", {}) | {"groups": [BETAS]}}
    check(small_recipe(**sections), sentence)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([{"variables": "beta"}], r'groups\.0 changes nothing, .*; received "beta"'),
        ([{"variables": "beta"}, {"variables": "gamma", "learning_rate_factor": 2.0}], "nothing"),
        ([{"variables": "stem"}, {"variables": "gamma", "learning_rate_factor": 2.0}], None),
    ],
)
def test_a_group_that_changes_nothing_must_keep_variables_from_another(
    groups, sentence, small_recipe
):
    check(small_recipe(optimizer={"groups": groups}), sentence)


def check(recipe, sentence, model=None):
    if sentence is None:
        check_setup(recipe, take_devices(), model)
        return
    with pytest.raises(UserError, match=sentence) as caught:
        check_setup(recipe, take_devices(), model)
    assert "\n" not in str(caught.value)


def test_groups_are_checked_for_a_model_of_ones_own(small_recipe, tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10, name="head")(x))
    group = {"variables": "head/bias", "weight_decay_factor": 0.5}
    recipe = small_recipe(optimizer={"groups": [group]})
    with pytest.raises(UserError, match="no decay to multiply"):
        fit(recipe, tmp_path / "run", model=model, data_dir=tmp_path / "no data")
    recipe = small_recipe(optimizer={"groups": [group | {"variables": "logits"}]})
    with pytest.raises(UserError, match=r'must match the path .* such as "head/kernel"'):
        fit(recipe, tmp_path / "run", model=model, data_dir=tmp_path / "no data")
    check(small_recipe(loss={"l2_of": "all"}, optimizer={"groups": [group]}), None, model)
