"""Augmentations of 3 x 3 images worked by hand, eagerly and in tf.data, and their draws."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from keras_imnet64.core.errors import UserError
from keras_imnet64.data.augment import OPS, check_augment
from keras_imnet64.data.augment.crops import BOX as CORNERS
from keras_imnet64.data.augment.crops import draw_crops, mirror
from keras_imnet64.data.augment.mixing import mixed_labels, partner_positions
from keras_imnet64.data.augment.policies import COMMON, TRANSFORMS

IMAGE = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], "uint8")
MEAN = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], "uint8")
# pad_crop with padding 1: {(fill, top, left): result}; (1, 1) is the image itself.
PAD_CROP = {
    ("zero", 0, 0): [[0, 0, 0], [0, 1, 2], [0, 4, 5]],
    ("zero", 2, 1): [[4, 5, 6], [7, 8, 9], [0, 0, 0]],
    ("zero", 1, 1): IMAGE.tolist(),
    ("reflect", 0, 0): [[5, 4, 5], [2, 1, 2], [5, 4, 5]],
    ("reflect", 1, 2): [[2, 3, 2], [5, 6, 5], [8, 9, 8]],
    ("mean", 0, 2): [[10, 20, 30], [2, 3, 60], [5, 6, 90]],
}
BOX = {"top": 0, "left": 1, "height": 2, "width": 2}


def transform(name, value):
    return {"transform1": TRANSFORMS.index(name), "value1": np.float32(value)}


# (operation, options, draws for one grey image, result for IMAGE)
BY_HAND = [
    # Each new pixel is the pixel of the box at its centre: 1/3, 1 and 5/3 of 2.
    ("random_resized_crop", {"interpolation": "box"}, BOX, [[2, 3, 3], [5, 6, 6], [5, 6, 6]]),
    # Interpolated between the box's pixel centres in steps of 2/3, constant at the ends: 2, 2.5, 3.
    (
        "random_resized_crop",
        {"interpolation": "bilinear"},
        BOX | {"height": 1},
        [[2, 3, 3]] * 3,  # halves go up
    ),
    ("random_rotation", {"degrees": 90}, {"angle": 90.0}, [[3, 6, 9], [2, 5, 8], [1, 4, 7]]),
    (
        "random_rotation",
        {"degrees": 45, "fill": 200},
        {"angle": 45.0},
        [[2, 3, 6], [1, 5, 9], [4, 7, 8]],
    ),
    ("trivial_augment", {}, transform("identity", 0), IMAGE),
    ("trivial_augment", {}, transform("translate_x", 1), [[0, 1, 2], [0, 4, 5], [0, 7, 8]]),
    ("trivial_augment", {}, transform("translate_y", -1), [[4, 5, 6], [7, 8, 9], [0, 0, 0]]),
    ("trivial_augment", {"fill": 9}, transform("shear_x", 1), [[2, 3, 9], [6, 9, 9], [9, 9, 9]]),
    ("trivial_augment", {}, transform("brightness", 1.5), [[1, 3, 4], [6, 7, 9], [10, 12, 13]]),
    ("trivial_augment", {}, transform("solarize", 8), [[1, 2, 3], [4, 5, 6], [7, 247, 246]]),
    (
        "rand_augment",
        {"num_ops": 2},
        transform("posterize", 6) | {"transform2": TRANSFORMS.index("brightness"), "value2": 2.0},
        [[0, 0, 0], [8, 8, 8], [8, 16, 16]],
    ),
    (
        "rand_augment_increasing",
        {},
        transform("solarize_add", 250),
        [[251, 252, 253], [254, 255, 255], [255, 255, 255]],
    ),
    ("auto_augment", {}, transform("invert", 0), 255 - IMAGE),
    ("random_erasing", {"fill": 99}, BOX, [[1, 99, 99], [4, 99, 99], [7, 8, 9]]),
    ("random_erasing", {"fill": "mean"}, BOX, [[1, 20, 30], [4, 50, 60], [7, 8, 9]]),
    ("random_erasing", {}, BOX | {"height": 0}, IMAGE),
]


def rgb(plane):
    return np.stack([np.asarray(plane, "uint8") + np.uint8(100 * c) for c in range(3)], axis=-1)


def grey(plane):
    return np.stack([np.asarray(plane, "uint8")] * 3, axis=-1)


def eagerly(function, images, draws):
    return function(images, draws).numpy()


def in_tf_data(function, images, draws):
    dataset = tf.data.Dataset.from_tensor_slices((images, draws)).batch(
        len(images), drop_remainder=True
    )
    return next(iter(dataset.map(function))).numpy()


BOTH = pytest.mark.parametrize("run", [eagerly, in_tf_data])


def as_arrays(draws):
    """Returns draws of one image as arrays [1, ...]: integers as int32, others as they are."""
    return {
        name: np.array([value], "int32" if isinstance(value, int) else None)
        for name, value in draws.items()
    }


# One case of each operation, which tf.data traces anew for each case.
FIRST = [next(case for case in BY_HAND if case[0] == op) for op in {op: None for op, *_ in BY_HAND}]


@pytest.mark.parametrize(
    ("run", "op", "options", "draws", "expected"),
    [
        *((eagerly, *case) for case in BY_HAND),
        *((in_tf_data, *case) for case in FIRST),
        *(
            pytest.param(in_tf_data, *case, marks=pytest.mark.slow)
            for case in BY_HAND
            if not any(case is first for first in FIRST)
        ),
    ],
)
def test_by_hand(run, op, options, draws, expected):
    needed = {"degrees": 90} if op == "random_rotation" else {}
    step = check_augment(op, needed | options)
    draws = {
        name: array.astype("float32") if array.dtype == "float64" else array
        for name, array in as_arrays(draws).items()
    }
    out = run(lambda i, d: step.apply(i, d, grey(MEAN)), grey(IMAGE)[None], draws)
    assert out.dtype == "uint8"
    assert out[0].tolist() == grey(expected).tolist()


@BOTH
@pytest.mark.parametrize("fill", ["zero", "reflect", "mean"])
def test_pad_crop_by_hand(run, fill):
    cases = {key[1:]: value for key, value in PAD_CROP.items() if key[0] == fill}
    step = check_augment("pad_crop", {"padding": 1, "fill": fill})
    images = np.stack([rgb(IMAGE)] * len(cases))
    top, left = np.array(list(cases), "int32").T
    draws = {"top": top, "left": left}
    out = run(lambda i, d: step.apply(i, d, rgb(MEAN)), images, draws)
    expected = [rgb(plane) for plane in cases.values()]
    if fill == "zero":
        expected = [np.where(np.asarray(p)[..., None] == 0, 0, rgb(p)) for p in cases.values()]
    assert out.dtype == "uint8"
    assert out.tolist() == np.stack(expected).tolist()


@BOTH
def test_mirror_by_hand(run):
    images = np.stack([rgb(IMAGE)] * 2)
    out = run(mirror, images, np.array([True, False]))
    assert out[0].tolist() == rgb([[3, 2, 1], [6, 5, 4], [9, 8, 7]]).tolist()
    assert out[1].tolist() == rgb(IMAGE).tolist()


@BOTH
def test_color_jitter_applies_the_drawn_order(run):
    """Doubles the brightness, then halves the contrast around the mean; then in reverse order."""
    step = check_augment("color_jitter", {"brightness": 1, "contrast": 1, "hue": 0.5})
    plane = np.array([[100, 200], [100, 200]], "uint8")
    draws = {
        "order": np.array([[0, 1, 2, 3], [2, 1, 0, 3]], "int32"),
        "brightness": np.full(2, 2.0, "float32"),
        "contrast": np.full(2, 0.5, "float32"),
        "saturation": np.full(2, 9.0, "float32"),  # its strength is 0: not applied
        "hue": np.zeros(2, "float32"),
    }
    images = np.stack([grey(plane)] * 2)
    out = run(lambda i, d: step.apply(i, d, grey(plane)), images, draws)
    # 200 and 255, whose greys 199 and 254 (the weights sum up to 0.9999) have the mean 226.5.
    assert out[0, ..., 0].tolist() == [[213, 240]] * 2
    # The greys 99 and 199 have the mean 149: 124.5 and 174.5 are cut off, then doubled.
    assert out[1, ..., 0].tolist() == [[248, 255]] * 2


@BOTH
def test_policies_treat_each_image_separately(run):
    """A batch with many transforms equals its images one by one."""
    step = check_augment("trivial_augment", {"interpolation": "bilinear"})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), dtype="uint8")
    draws = step.draw(rng, 40, 8)
    together = run(lambda i, d: step.apply(i, d, None), images, draws)
    for row in range(40):
        alone = {name: array[row : row + 1] for name, array in draws.items()}
        assert np.array_equal(step.apply(images[row : row + 1], alone, None)[0], together[row])


# --------------------------------------------------------------------------------------- mixing

PAIR = np.stack([grey(IMAGE), grey(IMAGE + 100)])
SWAPPED = {"partner": np.zeros(2)}  # each of the two images has the other as its partner


@BOTH
def test_mixup_by_hand(run):
    step = check_augment("mixup", {"alpha": 0.2})
    draws = SWAPPED | {"share": np.array([0.75, 1.0], "float32")}
    out = run(lambda i, d: step.apply(i, d, None), PAIR, draws)
    assert out[0].tolist() == (PAIR[0] + 25).tolist()
    assert out[1].tolist() == PAIR[1].tolist()


@BOTH
def test_cutmix_by_hand(run):
    step = check_augment("cutmix", {})
    draws = {name: np.array([value, 0], "int32") for name, value in BOX.items()}
    draws |= SWAPPED | {"share": np.array([5 / 9, 1.0], "float32")}
    out = run(lambda i, d: step.apply(i, d, None), PAIR, draws)
    assert out[0, ..., 0].tolist() == [[1, 102, 103], [4, 105, 106], [7, 8, 9]]
    assert out[1].tolist() == PAIR[1].tolist()


@BOTH
def test_mixup_or_cutmix_by_hand(run):
    step = check_augment("mixup_or_cutmix", {})
    draws = {name: np.array([value, value], "int32") for name, value in BOX.items()}
    draws |= SWAPPED | {"share": np.full(2, 0.5, "float32"), "cuts": np.array([True, False])}
    out = run(lambda i, d: step.apply(i, d, None), PAIR, draws)
    assert out[0, ..., 0].tolist() == [[1, 102, 103], [4, 105, 106], [7, 8, 9]]
    assert out[1].tolist() == (PAIR[0] + 50).tolist()


def test_labels_of_mixed_images():
    draws = {"partner": np.array([0.0, 0.99, 0.5]), "share": np.array([0.25, 1, 0.5], "float32")}
    assert partner_positions(draws).numpy().tolist() == [1, 0, 1]
    labels = mixed_labels(np.array([7, 8, 9]), draws).numpy()
    assert labels.tolist() == [[7, 8, 0.25], [8, 7, 1], [9, 8, 0.5]]


@BOTH
@pytest.mark.parametrize("cuts", [False, True])
def test_a_batch_is_mixed_with_its_reverse_by_the_draws_of_its_first_image(run, cuts):
    """What timm does with a batch; the draws of the second and the third image have no effect."""
    step = check_augment("mixup_or_cutmix", {"per": "batch"})
    images = np.stack([grey(IMAGE), grey(IMAGE + 50), grey(IMAGE + 100)])
    draws = {name: np.array([value, 0, 1], "int32") for name, value in BOX.items()}
    draws |= {"share": np.array([0.75, 0.1, 1.0], "float32"), "cuts": np.array([cuts, True, False])}
    out = run(lambda i, d: step.apply(i, d, None), images, draws)
    if cuts:
        assert out[0, ..., 0].tolist() == [[1, 102, 103], [4, 105, 106], [7, 8, 9]]
        assert out[2, ..., 0].tolist() == [[101, 2, 3], [104, 5, 6], [107, 108, 109]]
    else:
        assert out[0].tolist() == (images[0] + 25).tolist()
        assert out[2].tolist() == (images[2] - 25).tolist()
    assert out[1].tolist() == images[1].tolist()  # the middle one meets itself
    labels = mixed_labels(np.array([7, 8, 9]), draws).numpy()
    assert labels.tolist() == [[7, 9, 0.75], [8, 8, 0.75], [9, 7, 0.75]]


def test_a_batch_is_mixed_as_by_timm(peer_torch, monkeypatch):
    """By its FastCollateMixup in the mode "batch", which is given our share and box."""
    from timm.data import mixup as peer

    step = check_augment("mixup_or_cutmix", {"per": "batch", "mixup_alpha": 0.2})
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 16, 16, 3), "uint8"), np.arange(8)
    seen = set()
    for _ in range(8):
        draws = step.draw(rng, 8, 16)
        cuts, share = bool(draws["cuts"][0]), float(draws["share"][0])
        top, left, height, width = (int(draws[name][0]) for name in CORNERS)
        box = (top, top + height, left, left + width), share
        monkeypatch.setattr(peer, "cutmix_bbox_and_lam", lambda *_, **__: box)  # noqa: B023
        mix = peer.FastCollateMixup(0.2, 1.0, label_smoothing=0.0, num_classes=8)
        monkeypatch.setattr(mix, "_params_per_batch", lambda: (share, cuts))  # noqa: B023
        batch = [(images[label].transpose(2, 0, 1).copy(), label) for label in labels]
        theirs, targets = mix(batch)
        found = step.apply(images, draws, None).numpy()
        np.testing.assert_array_equal(found, theirs.numpy().transpose(0, 2, 3, 1))
        first, second, shares = mixed_labels(labels, draws).numpy().T[..., None]
        own = shares * (first == labels) + (1 - shares) * (second == labels)
        np.testing.assert_allclose(own, targets.numpy(), atol=1e-6)
        seen.add(cuts)
    assert seen == {False, True}


@pytest.mark.parametrize("op", ["mixup", "cutmix"])
def test_one_operation_may_be_drawn_for_a_batch_too(op):
    step = check_augment(op, {"per": "batch"})
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), "uint8")
    draws = step.draw(rng, 6, 8)
    assert "partner" not in draws and len(draws["share"]) == 6
    first = {name: np.repeat(drawn[:1], 6, axis=0) for name, drawn in draws.items()}
    reverse = {"partner": (np.array([5, 3, 1, 5, 3, 1]) - 0.5) / 5}  # image 5 - i for image i
    assert partner_positions(reverse).numpy().tolist() == [5, 4, 3, 2, 1, 0]
    alone = check_augment(op, {}).apply(images, first | reverse, None)
    np.testing.assert_array_equal(step.apply(images, draws, None), alone)


def test_all_other_images_are_equally_likely_partners():
    rng = np.random.default_rng(0)
    found = np.stack([partner_positions({"partner": rng.random(5)}).numpy() for _ in range(2000)])
    for row in range(5):
        counts = np.bincount(found[:, row], minlength=5)
        assert counts[row] == 0
        assert np.delete(counts, row).min() > 420  # of 500


# ---------------------------------------------------------------------------------------- draws


def draw(op, num_samples=20_000, image_size=64, **options):
    return check_augment(op, options).draw(np.random.default_rng(0), num_samples, image_size)


def test_pad_crop_draws_all_offsets_uniformly():
    for offsets in draw("pad_crop", 9000, padding=4).values():
        counts = np.bincount(offsets, minlength=9)
        assert len(counts) == 9
        assert counts.min() > 850


def crop_by_the_definition(rng, height, width, scale, ratio):
    """Draws one box by the definition; returns (share of the area, width / height)."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return w * h / (height * width), w / h
    return None


def test_a_drawn_filter_is_that_of_each_image():
    """And it is drawn after the boxes, which are those of any other interpolation."""
    step = check_augment("random_resized_crop", {"interpolation": "random"})
    images = np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3), "uint8")
    draws = step.draw(np.random.default_rng(0), 40, 16)
    is_bicubic = draws["is_bicubic"]
    assert 8 < is_bicubic.sum() < 32
    out = step.apply(images, draws, None).numpy()
    for number, name in enumerate(("bilinear", "bicubic")):
        plain = check_augment("random_resized_crop", {"interpolation": name})
        boxes = plain.draw(np.random.default_rng(0), 40, 16)
        assert all(np.array_equal(boxes[key], draws[key]) for key in boxes)
        mine = is_bicubic == bool(number)
        expected = plain.apply(images, boxes, None).numpy()
        np.testing.assert_array_equal(out[mine], expected[mine])
        assert (out[~mine] != expected[~mine]).any(axis=(1, 2, 3)).mean() > 0.9


def test_random_resized_crop_draws_as_defined():
    boxes = draw("random_resized_crop")
    top, left, height, width = (boxes[k] for k in ("top", "left", "height", "width"))
    assert min(top.min(), left.min()) == 0
    assert max((top + height).max(), (left + width).max()) == 64
    rng = np.random.default_rng(1)
    expected = [crop_by_the_definition(rng, 64, 64, (0.08, 1), (3 / 4, 4 / 3)) for _ in top]
    drawn = (height * width / 64**2, width / height)
    quantiles = np.linspace(0.02, 0.98, 9)
    for ours, theirs in zip(drawn, zip(*filter(None, expected), strict=True), strict=True):
        np.testing.assert_allclose(
            np.quantile(ours, quantiles), np.quantile(theirs, quantiles), atol=0.02
        )
    # Positions are uniform among those where the box fits.
    inner = width < 40
    assert abs((left[inner] / (64 - width[inner])).mean() - 0.5) < 0.01


def test_a_crop_that_never_fits_is_the_largest_centred_one():
    sizes = np.array([[10, 100], [100, 10], [10, 11]])
    boxes = draw_crops(np.random.default_rng(0), sizes, [1, 1], [3 / 4, 4 / 3])
    found = np.stack([boxes[name] for name in ("top", "left", "height", "width")], axis=-1)
    assert found[0].tolist() == [0, 43, 10, 13]  # 13 = round(10 * 4 / 3)
    assert found[1].tolist() == [43, 0, 13, 10]
    narrow = draw_crops(np.random.default_rng(0), np.array([[8, 8]]), [1, 1], [16, 20])
    assert (narrow["height"].item(), narrow["width"].item()) == (1, 8)  # at least a pixel


def test_rotation_draws_angles_uniformly():
    angles = draw("random_rotation", degrees=18)["angle"]
    assert angles.dtype == np.float32
    np.testing.assert_allclose(np.quantile(angles, [0, 0.25, 0.5, 1]), [-18, -9, 0, 18], atol=0.4)


def test_color_jitter_draws_factors_and_all_orders():
    draws = draw("color_jitter", brightness=0.4, contrast=1.5, hue=0.1)
    ranges = {"brightness": (0.6, 1.4), "contrast": (0, 2.5), "saturation": (1, 1)}
    for name, (low, high) in (ranges | {"hue": (-0.1, 0.1)}).items():
        quantiles = np.quantile(draws[name], [0, 0.5, 1])
        np.testing.assert_allclose(quantiles, [low, (low + high) / 2, high], atol=0.05)
    orders, counts = np.unique(draws["order"], axis=0, return_counts=True)
    assert {tuple(order) for order in orders.tolist()} == set(itertools.permutations(range(4)))
    assert counts.min() > 700  # of 833


def values_of(draws, name, step=1):
    return draws[f"value{step}"][draws[f"transform{step}"] == TRANSFORMS.index(name)]


def test_trivial_augment_draws_transforms_and_strengths_uniformly():
    draws = draw("trivial_augment", 100_000)
    counts = np.bincount(draws["transform1"], minlength=len(TRANSFORMS))
    for name, count in zip(TRANSFORMS, counts, strict=True):
        assert abs(count - (7143 if name in COMMON else 0)) < 400
    assert len(COMMON) == 14
    angles, counts = np.unique(values_of(draws, "rotate"), return_counts=True)
    np.testing.assert_allclose(angles, np.linspace(-135, 135, 61), atol=1e-4)
    assert np.delete(counts, 30).min() > 70  # of 115; the middle one has both signs
    assert set(values_of(draws, "posterize")) == {2, 3, 4, 5, 6, 7, 8}
    # Whole pixels of 0, 32 / 30, 64 / 30, ..., 32; as float32 the middle falls short of 16.
    assert set(values_of(draws, "translate_x")) == set(range(-32, 33)) - {-31, -16, 16, 31}
    factors = values_of(draws, "saturation")
    np.testing.assert_allclose([factors.min(), factors.max()], [0.01, 1.99], atol=1e-6)
    thresholds = np.unique(values_of(draws, "solarize"))
    np.testing.assert_allclose(thresholds, np.linspace(0, 255, 31), atol=1e-4)


def test_rand_augment_draws_at_one_strength():
    draws = draw("rand_augment", num_ops=3, magnitude=9)
    assert set(draws) == {f"{kind}{step}" for kind in ("transform", "value") for step in (1, 2, 3)}
    for step in (1, 2, 3):
        counts = np.bincount(draws[f"transform{step}"], minlength=len(TRANSFORMS))
        assert counts[counts > 0].min() > 1200  # of 1,429
        np.testing.assert_allclose(distinct(values_of(draws, "rotate", step)), [-9, 9], rtol=1e-6)
        np.testing.assert_allclose(distinct(values_of(draws, "contrast", step)), [0.73, 1.27], 1e-6)
        assert distinct(values_of(draws, "posterize", step)) == [7]  # 8 - round(9 / 7.5)
        assert distinct(values_of(draws, "translate_y", step)) == [-8, 8]  # 0.3 * 150 / 331 * 64


def distinct(values):
    return sorted(set(values.tolist()))


def test_increasing_rand_augment_draws_levels_around_the_magnitude():
    draws = draw("rand_augment_increasing", 60_000, magnitude=9, magnitude_std=0.5)
    counts = np.bincount(draws["transform1"], minlength=len(TRANSFORMS))
    assert abs(counts[0] - 30_000) < 500  # half of them stay
    assert counts[1:].min() > 1800  # of 2,000
    angles = np.abs(values_of(draws, "rotate"))
    assert angles.max() == 30  # level 10
    assert abs(np.median(angles) - 27) < 0.1  # level 9
    assert abs(np.quantile(angles, 0.1587) - 25.5) < 0.2  # a deviation below: level 8.5
    assert distinct(values_of(draws, "posterize")) == [0, 1, 2]  # 4 - int(4 * level / 10)
    factors = values_of(draws, "brightness")
    assert 0.0999 < factors.min() < factors.max() < 1.9001
    assert values_of(draws, "solarize_add").max() == 110
    assert values_of(draws, "solarize").min() == 0


def test_auto_augment_draws_its_pairs():
    draws = draw("auto_augment", 100_000, policy="imagenet")
    first = np.bincount(draws["transform1"], minlength=len(TRANSFORMS)) / 100_000
    # By the table: posterize comes first in three pairs, with 0.4, 0.6 and 0.8; shear_x in one.
    assert abs(first[TRANSFORMS.index("posterize")] - (0.4 + 0.6 + 0.8) / 25) < 0.004
    assert abs(first[TRANSFORMS.index("shear_x")] - 0.6 / 25) < 0.003
    np.testing.assert_allclose(distinct(values_of(draws, "shear_x")), [-1 / 6, 1 / 6], rtol=1e-6)
    inverted = draws["transform1"] == TRANSFORMS.index("invert")
    assert (draws["transform2"][inverted] == TRANSFORMS.index("equalize")).all()


def test_erasing_draws_boxes_within_the_image():
    draws = draw("random_erasing", probability=0.25, scale=[0.02, 0.2], ratio=[0.5, 4])
    erased = draws["height"] > 0
    assert abs(erased.mean() - 0.25) < 0.01
    height, width = draws["height"][erased], draws["width"][erased]
    assert ((draws["top"] + draws["height"]).max(), (draws["left"] + draws["width"]).max()) == (
        64,
        64,
    )
    assert abs(np.median(height * width / 64**2) - 0.11) < 0.005
    assert abs(np.median(np.log(height / width)) - np.log(2) / 2) < 0.05


def test_mixup_draws_shares_of_beta():
    draws = draw("mixup", alpha=0.2, probability=0.5)
    mixed = draws["share"][draws["share"] < 1]
    assert abs(len(mixed) / 20_000 - 0.5) < 0.02
    assert abs(mixed.mean() - 0.5) < 0.01
    assert abs(mixed.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.01


def test_cutmix_draws_boxes_and_the_share_that_they_leave():
    draws = draw("cutmix", alpha=1.0)
    area = draws["height"] * draws["width"] / 64**2
    np.testing.assert_allclose(draws["share"], 1 - area, rtol=1e-6)
    whole = (draws["top"] > 0) & (draws["left"] > 0) & (draws["top"] + draws["height"] < 64)
    whole &= draws["left"] + draws["width"] < 64
    assert (np.abs(draws["height"] - draws["width"])[whole] <= 1).all()
    assert draws["share"].min() < 0.1 < 0.9 < draws["share"].max()


def test_mixup_or_cutmix_draws_both():
    draws = draw("mixup_or_cutmix", cutmix_share=0.25)
    assert abs(draws["cuts"].mean() - 0.25) < 0.01
    area = draws["height"] * draws["width"] / 64**2
    np.testing.assert_allclose(draws["share"][draws["cuts"]], 1 - area[draws["cuts"]], rtol=1e-6)


# ------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        ("padcrop", {}, 'did you mean "pad_crop"'),
        ("pad_crop", {"pading": 4}, 'did you mean "padding"'),
        ("pad_crop", {"padding": -1}, "whole number from 0"),
        ("pad_crop", {"fill": "reflekt"}, 'one of "zero", "reflect", "mean"'),
        ("random_resized_crop", {"scale": [0.5, 2]}, r"scale.1 must be a number from 1e-06 to 1"),
        ("random_resized_crop", {"scale": 0.5}, r"\[low, high\]"),
        ("random_rotation", {}, "needs a value for degrees"),
        ("rand_augment", {"magnitude": 31}, "from 0 to 30"),
        ("auto_augment", {"policy": "imagenette"}, '"imagenet", "cifar10", "svhn"'),
        ("mixup", {"alpha": 0}, "from 0.001"),
        ("mixup", {"per": "epoch"}, '"image" or "batch"; received "epoch"'),
        ("random_resized_crop", {"interpolation": "any"}, '"lanczos", "random"; received "any"'),
        ("color_jitter", {}, "a value above 0 for one of brightness, contrast"),
        ("random_erasing", {"fill": "noise"}, 'from 0 to 255 or "mean"'),
    ],
)
def test_wrong_augmentations_are_refused_in_a_sentence(op, options, message):
    with pytest.raises(UserError, match=message):
        check_augment(op, options)


def test_every_operation_has_a_test_here():
    by_hand = {case[0] for case in BY_HAND}
    own = {"pad_crop", "color_jitter", "mixup", "cutmix", "mixup_or_cutmix"}
    assert set(OPS) == by_hand | own


@pytest.mark.parametrize("op", OPS)
def test_every_operation_works_as_drawn(op):
    """The result has the size of the images, and the same draws give the same result."""
    options = {"random_rotation": {"degrees": 30}, "color_jitter": {"hue": 0.5, "contrast": 1}}
    step = check_augment(op, options.get(op, {}), image_size=16)
    images = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype="uint8")
    draws = step.draw(np.random.default_rng(1), 50, 16)
    assert all(len(array) == 50 for array in draws.values())
    mean = np.full((16, 16, 3), 128, "uint8")
    first, second = (step.apply(images, draws, mean).numpy() for _ in range(2))
    assert (first.dtype, first.shape) == (np.uint8, images.shape)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, images)
