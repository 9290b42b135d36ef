"""What training minimises, against values worked by hand."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize
from keras_imnet64.training.loss import BinaryCrossEntropy, CrossEntropy, add_l2
from keras_imnet64.training.optim import make_optimizer, make_schedule

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]], "float32"))


@pytest.mark.backend
def test_cross_entropy_with_label_smoothing_by_hand():
    """Targets for s = 0.3 and K = 3: 0.8 for the label, 0.1 for the others."""
    labels = np.array([0, 2])
    plain = -(np.log(0.7) + np.log(0.5)) / 2
    assert float(CrossEntropy()(labels, LOGITS)) == pytest.approx(plain, rel=1e-5)
    first = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
    second = -(0.1 * np.log(0.25) + 0.1 * np.log(0.25) + 0.8 * np.log(0.5))
    smoothed = float(CrossEntropy(0.3)(labels, LOGITS))
    assert smoothed == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.backend
def test_l2_of_all_is_the_coupled_weight_decay_of_pytorch():
    """Two steps of torch.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.5), worked out.

    There g = gradient + 0.5 w, b = 0.9 b + g, w = w - 0.1 b. The loss is w x + b of x = 3, so the
    gradients are 3 and 1; w = 2 and b = -4 at the start.
    """
    dense = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((1,)), dense])
    dense.set_weights([np.array([[2.0]]), np.array([-4.0])])
    add_l2(model, 0.5 / 2, of="all")
    optimizer = make_optimizer(
        "sgd",
        make_schedule("constant", learning_rate=0.1, steps_per_epoch=1, num_epochs=2),
        momentum=0.9,
    )
    model.compile(optimizer, lambda labels, outputs: outputs, jit_compile=False)
    weight, bias, of_weight, of_bias = 2.0, -4.0, 0.0, 0.0
    for _ in range(2):
        model.train_on_batch(np.array([[3.0]]), np.array([[0.0]]))
        of_weight = 0.9 * of_weight + 3 + 0.5 * weight
        of_bias = 0.9 * of_bias + 1 + 0.5 * bias
        weight, bias = weight - 0.1 * of_weight, bias - 0.1 * of_bias
    found = [float(array.ravel()[0]) for array in dense.get_weights()]
    assert found == pytest.approx([weight, bias], rel=1e-6)


@pytest.mark.backend
def test_cross_entropy_of_mixed_images_by_hand():
    """Three quarters of class 0 and one of class 1, for s = 0.3 with 0.1 more for each class."""
    labels = np.array([[0, 1, 0.75], [2, 2, 0.5]], "float32")
    first = -(0.75 * np.log(0.7) + 0.25 * np.log(0.2))
    plain = float(CrossEntropy()(labels, LOGITS))
    assert plain == pytest.approx((first - np.log(0.5)) / 2, rel=1e-5)
    smoothed = 0.7 * np.array([0.75, 0.25, 0]) + 0.1
    first = -(smoothed * np.log([0.7, 0.2, 0.1])).sum()
    second = -(0.1 * np.log(0.25) + 0.1 * np.log(0.25) + 0.8 * np.log(0.5))
    value = float(CrossEntropy(0.3)(labels, LOGITS))
    assert value == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_l2_is_the_sum_of_squares_of_kernels_and_gammas_without_a_half(dtype):
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=1, dtype=dtype)
    initialize(model, 0)
    add_l2(model, 0.01)
    decayed = [v for v in model.trainable_variables if v.name in ("kernel", "gamma")]
    spared = {v.name for v in model.trainable_variables} - {"kernel", "gamma"}
    assert spared == {"bias", "beta"}
    expected = 0.01 * sum(np.square(ops.convert_to_numpy(v)).sum() for v in decayed)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)
    assert len(model.losses) == len(decayed)


def sigmoid_cross_entropy(targets):
    """[B, K], from the definition, of LOGITS."""
    p = 1 / (1 + np.exp(-LOGITS.astype("float64")))
    return -(targets * np.log(p) + (1 - targets) * np.log(1 - p))


@pytest.mark.backend
def test_binary_cross_entropy_by_hand():
    """Targets for s = 0.3 and K = 3: 0.8 and 0.1; of the mixed image 0.625, 0.275 and 0.1."""
    labels, mixed = np.array([0, 2]), np.array([[0, 1, 0.75], [2, 2, 0.5]], "float32")
    targets = np.array([[1.0, 0, 0], [0, 0, 1]])
    plain = sigmoid_cross_entropy(targets)
    assert float(BinaryCrossEntropy()(labels, LOGITS)) == pytest.approx(plain.mean(), rel=1e-5)
    summed = BinaryCrossEntropy(sum_classes=True)(labels, LOGITS)
    assert float(summed) == pytest.approx(plain.sum(1).mean(), rel=1e-5)
    smoothed = sigmoid_cross_entropy(0.7 * targets + 0.1)
    assert float(BinaryCrossEntropy(0.3)(labels, LOGITS)) == pytest.approx(smoothed.mean(), 1e-5)
    soft = sigmoid_cross_entropy(np.array([[0.625, 0.275, 0.1], [0.1, 0.1, 0.8]]))
    assert float(BinaryCrossEntropy(0.3)(mixed, LOGITS)) == pytest.approx(soft.mean(), rel=1e-5)
    hard = sigmoid_cross_entropy(np.array([[1.0, 1, 0], [0, 0, 1]]))
    assert float(BinaryCrossEntropy(0.3, 0.2)(mixed, LOGITS)) == pytest.approx(hard.mean(), 1e-5)
    hard = sigmoid_cross_entropy(np.array([[1.0, 0, 0], [0, 0, 1]]))
    assert float(BinaryCrossEntropy(0.3, 0.3)(mixed, LOGITS)) == pytest.approx(hard.mean(), 1e-5)


@pytest.mark.backend
def test_binary_cross_entropy_is_exact_at_its_ends_and_has_its_gradient_at_zero():
    logits = np.array([[90.0, -90.0, 20.0, 0.0]], "float32")
    loss, labels = BinaryCrossEntropy(sum_classes=True), np.array([0])
    found = float(loss(labels, logits[:, :2]))
    assert found == pytest.approx(0.0, abs=1e-30)
    assert float(loss(labels, logits[:, 2:3])) == pytest.approx(np.log1p(np.exp(-20.0)), rel=1e-5)
    gradient = gradient_of(lambda x: loss(np.array([3]), x), logits)
    np.testing.assert_allclose(gradient, [[1.0, 0.0, 1.0, -0.5]], atol=1e-6)


def gradient_of(function, array):
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(array))
    import tensorflow as tf

    tensor = tf.constant(array)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = function(tensor)
    return tape.gradient(value, tensor).numpy()


@pytest.mark.backend
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("sums", [False, True])
def test_binary_cross_entropy_is_timms(sums, threshold, peer_torch):
    timm_loss = pytest.importorskip("timm.loss")
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=(6, 5)).astype("float32")
    labels, partners = rng.integers(5, size=(2, 6))
    shares = rng.random(6, "float32")
    peer = timm_loss.BinaryCrossEntropy(0.1, threshold, sum_classes=sums)
    ours = BinaryCrossEntropy(0.1, threshold, sums)
    expected = peer(peer_torch.tensor(logits), peer_torch.tensor(labels))
    assert float(ours(labels, logits)) == pytest.approx(float(expected), rel=1e-5)
    rows = np.eye(5, dtype="float32") * 0.9 + np.float32(0.02)  # timm's Mixup smooths, not its loss
    soft = shares[:, None] * rows[labels] + (1 - shares[:, None]) * rows[partners]
    expected = peer(peer_torch.tensor(logits), peer_torch.tensor(soft))
    mixed = np.stack([labels, partners, shares], axis=1).astype("float32")
    assert float(ours(mixed, logits)) == pytest.approx(float(expected), rel=1e-5)
