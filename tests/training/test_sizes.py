"""Progressive resolution: the same weights on smaller images, however a run trains."""

import keras
import numpy as np
import pytest
from conftest import learnable_images
from killed import FOUR_BLOCKS
from same_end import same_end
from test_fit import SignalAt
from test_interruption import Poison

from keras_imnet64 import training_setup
from keras_imnet64.backend.devices import take_devices
from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.data.stores.packing import write_store
from keras_imnet64.models import build_model
from keras_imnet64.models.davit import VARIANTS
from keras_imnet64.models.keras_private import calls_of, graph_of
from keras_imnet64.models.load import load_model
from keras_imnet64.models.sizes import network_at
from keras_imnet64.records import SizeStage
from keras_imnet64.training.fit import fit
from keras_imnet64.training.setup import check_setup
from keras_imnet64.training.sizes import shrink_normalization, smaller_networks
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

HALF = [[0.0, 8], [0.5, 16]]
RESNET = {"name": "resnet18", "stem": "small"}
DAVIT = {"name": "davit_tiny", "stem": "small"}
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), "uint8")


@pytest.fixture
def four_blocks(monkeypatch):
    monkeypatch.setitem(VARIANTS, "davit_tiny", FOUR_BLOCKS)


# --------------------------------------------------------------------------- epochs of each size


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [
        (None, 5, [16] * 5),
        ([[0.0, 16]], 5, [16] * 5),
        ([[0.0, 8], [0.5, 16]], 4, [8, 8, 16, 16]),
        ([[0.0, 8], [0.5, 16]], 5, [8, 8, 8, 16, 16]),  # half of 5 is over before the fourth
        ([[0.0, 8], [0.6, 12], [0.8, 16]], 5, [8, 8, 8, 12, 16]),  # 3 / 5 is 0.6, to the bit
        ([[0.0, 8], [0.07, 16]], 100, [8] * 7 + [16] * 93),  # 0.07 * 100 is above 7
        ([[0.0, 8], [0.01, 16]], 3, [8, 16, 16]),  # the first epoch at whose start it is over
        ([[0.0, 8]], 3, [8, 8, 8]),  # the model has 16 pixels all the same
        ([[0.0, 8], [0.5, 12]], 4, [8, 8, 12, 12]),
    ],
)
def test_an_epoch_has_the_size_whose_share_is_over_when_it_begins(
    sizes, epochs, expected, small_recipe
):
    recipe = small_recipe(train={"epochs": epochs, "sizes": sizes})
    assert [recipe.size_of_epoch(epoch) for epoch in range(epochs)] == expected
    assert recipe.size_of_epoch(epochs) == expected[-1]
    assert recipe.image_size == 16
    assert recipe.smaller_sizes == tuple(sorted({size for size in expected if size < 16}))
    assert sum(stage.end_epoch - stage.first_epoch for stage in recipe.size_stages) == epochs
    assert "sizes" in recipe.to_toml() or not sizes


def test_stages_follow_each_other(small_recipe):
    recipe = small_recipe(train={"epochs": 4, "sizes": [[0.0, 8], [0.25, 12], [0.5, 16]]})
    assert recipe.size_stages == (SizeStage(8, 0, 1), SizeStage(12, 1, 2), SizeStage(16, 2, 4))


# ----------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(RESNET, marks=pytest.mark.slow),
        RESNET | {"anti_aliasing": True},
        DAVIT,
    ],
)
def test_a_network_at_a_size_is_the_one_built_for_it_with_the_same_weights(
    options, slim, four_blocks
):
    """For families whose structure is the same at both sizes."""
    full, small = (build_model(image_size=s, num_classes=10, **options) for s in (64, 48))
    small.set_weights(full.get_weights())
    pattern = build_model(image_size=64, input_size=48, num_classes=10, **options)
    sized = network_at(full, 48, pattern)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), "uint8")
    expected = keras.ops.convert_to_numpy(small(pixels))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(sized(pixels)), expected, atol=1e-6)
    assert {id(v) for v in sized.variables} == {id(v) for v in full.variables}


def map_of(model, name):
    """Pixels of a layer's map in a model; `layer.output` is that of the full size."""
    (call,) = [call for call in calls_of(graph_of(model)) if call.operation.name == name]
    return tuple(call.outputs[0].shape[1:3])


def test_a_wide_resnet_keeps_its_stages():
    """Where the builder has one stage fewer for 8 pixels; its own graph runs on any size."""
    full = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=0.5)
    pattern = build_model(
        "wide_resnet", image_size=16, input_size=8, num_classes=10, depth=8, width=0.5
    )
    pixels = keras.Input((8, 8, 3))
    cloned = keras.models.clone_model(full, input_tensors=pixels)
    cloned.set_weights(full.get_weights())
    expected = keras.ops.convert_to_numpy(cloned(PIXELS[:, :8, :8]))
    for sized in (network_at(full, 8, pattern), network_at(full, 8)):
        assert map_of(sized, "features") == (4, 4)
        found = keras.ops.convert_to_numpy(sized(PIXELS[:, :8, :8]))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_stem_is_that_of_the_full_size(slim):
    """By their own size 64 pixels would take the stem at stride 2, and 128 that at stride 4."""
    full = build_model("davit_tiny", image_size=128, num_classes=10)
    pattern = build_model("davit_tiny", image_size=128, input_size=64, num_classes=10)
    sized = network_at(full, 64, pattern)
    assert map_of(sized, "stem_norm") == (16, 16)


@pytest.mark.backend
def test_a_mean_image_is_shrunk_with_the_images(small_recipe):
    """An image whose pixels are in blocks of 2 x 2 less its mean image is the small one less
    the small mean."""
    recipe = small_recipe(train={"epochs": 2, "sizes": HALF})
    mean = np.random.default_rng(0).random((16, 16, 3))
    normalization = {"mean": mean, "std": 1.0}
    options = recipe.model.options
    full = build_model(
        recipe.model.name, image_size=16, num_classes=10, normalization=normalization, **options
    )
    sized = smaller_networks(full, recipe.model_copy(), normalization, own_model=False)[8]
    layer = sized.get_layer("normalization")
    small = PIXELS[:, ::2, ::2]
    expected = small / 255 - mean.reshape(8, 2, 8, 2, 3).mean((1, 3))
    found = keras.ops.convert_to_numpy(layer(small.astype("float32")))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert shrink_normalization("imagenet", 8) == "imagenet"


def layers_that_hold_sizes():
    inputs = keras.Input((16, 16, 3))
    conv = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv")(inputs)
    flat = keras.layers.Flatten(name="flat")(conv)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(conv)
    mean = np.zeros((16, 16, 3))
    own = keras.layers.Normalization((1, 2, 3), mean, mean + 1, name="own_mean")(inputs)
    folded = keras.ops.reshape(conv, (-1, 16, 4))
    return {
        '"flat" flattens a map of 8 x 8 for a dense layer': (inputs, flat),
        "own_mean": (inputs, keras.layers.GlobalAveragePooling2D()(own)),
        "which holds the size of its map": (inputs, keras.ops.mean(folded, axis=1)),
        None: (inputs, pooled),
    }


@pytest.mark.parametrize("sentence", layers_that_hold_sizes())
def test_a_model_of_your_own_is_judged_by_its_layers(sentence):
    inputs, features = layers_that_hold_sizes()[sentence]
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(features))
    if sentence is None:
        assert network_at(model, 8).output.shape == (None, 10)
        return
    with pytest.raises(UserError, match=sentence):
        network_at(model, 8)


@pytest.mark.parametrize(
    ("model", "sizes", "sentence"),
    [
        (DAVIT | {"stem": "full_15x15"}, HALF, r"davit_tiny does not work on 8 pixels \(.*least 9"),
        (
            RESNET | {"stem": "imagenet"},
            HALF,
            '8 pixels are too few for resnet18, whose layer "stage',
        ),
    ],
)
def test_networks_have_a_least_size(model, sizes, sentence, slim, small_recipe):
    recipe = small_recipe(model=model, train={"sizes": sizes})
    with pytest.raises(UserError, match=sentence):
        check_setup(recipe, take_devices())


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "vgg16_bn", "tiny_cnn1", "tiny_cnn2"])
def test_networks_with_dense_layers_on_the_map_are_refused(name, slim, small_recipe):
    recipe = small_recipe(
        model={"name": name},
        data={"dataset": "imagenet_resized/64x64"},
        train={"sizes": [[0.0, 32], [0.5, 64]]},
    )
    with pytest.raises(UserError, match=f'{name}, whose layer "pool" flattens a map'):
        check_setup(recipe, take_devices())


def test_weights_for_each_pixel_are_refused():
    """As those of a position embedding."""
    with pytest.raises(UserError, match=r'layer "dense" has weights of shape .* at 16 .* at 8: '):
        network_at(with_dense_rows(16), 8, with_dense_rows(8))


def with_dense_rows(size):
    """A network whose weights mix the columns of a row."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Permute((1, 3, 2))(inputs)
    x = keras.layers.Dense(4, name="dense")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_statistics_of_a_network_without_any_are_refused(four_blocks, small_recipe):
    recipe = small_recipe(model=DAVIT, train={"remeasure_statistics": 2})
    with pytest.raises(UserError, match="no use for davit_tiny, which has no batch norm"):
        check_setup(recipe, take_devices())


# ------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def shrunken_dir(tmp_path_factory):
    """The training images of `data_dir` as a data set of 8 pixels."""
    from keras_imnet64.data.augment.shrink import shrink_arrays

    folder = tmp_path_factory.mktemp("shrunken")
    wnids = [f"n{number:08}" for number in range(30, 20, -1)]
    for seed, (split, count) in enumerate({"train": 96, "validation": 40}.items()):
        images, labels = learnable_images(count, 16, seed)
        write_store(
            folder / "packed" / "imagenet_resized_8x8-unverified" / split,
            [(shrink_arrays(images, 8), labels)],
            dataset="imagenet_resized/8x8",
            split=split,
            count=count,
            image_size=8,
            wnids=wnids,
            class_names=wnids,
            source="shrunk by the tests",
            verified=False,
        )
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"dtype": "mixed_bfloat16", "remat": True}, marks=pytest.mark.slow),
    ],
)
def test_small_epochs_train_as_on_small_images(
    options, small_recipe, data_dir, shrunken_dir, tmp_path
):
    """The losses of an epoch at 8 pixels are those of a run on a data set of 8 pixels."""
    model = {"name": "small_resnet", "widths": [16], "blocks": [1], "stem_stride": 1}
    sections = {"model": model, "augment": [], "data": {"mirror": "random"}}
    train = {"epochs": 2, **options}
    sized = small_recipe(**sections, train=train | {"sizes": HALF})
    data = {"mirror": "random", "dataset": "imagenet_resized/8x8"}
    small = small_recipe(**sections | {"data": data}, train=train)

    def losses(recipe, folder, where):
        ends = SignalAt(0, 5)  # in the last step of the first epoch
        with pytest.raises(Stopped):
            fit(recipe, folder, data_dir=where, callbacks=[ends])
        state = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).run_state
        return [row.loss for row in state.history]

    found = losses(sized, tmp_path / "sized", data_dir)
    assert len(found) == 1
    expected = losses(small, tmp_path / "small", shrunken_dir)
    np.testing.assert_allclose(found, expected, rtol=1e-3 if options else 1e-5)


class Counting(keras.callbacks.Callback):
    """How often training begins and ends, and with which logs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_train_begin(self, logs=None):
        self.calls.append("begin")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(epoch)

    def on_train_end(self, logs=None):
        self.calls.append("end" if logs and "loss" in logs else "end without logs")


def test_a_stop_at_the_change_of_sizes_goes_on(small_recipe, data_dir, tmp_path, capsys):
    """After the last step of the last small epoch; test_interruption has kills within epochs.

    The last epoch is below the size of the model, and the statistics are those of 16 pixels. To
    callbacks training begins once: else Keras' EarlyStopping would set the best weights back.
    """
    counting = Counting()
    train = {"epochs": 2, "sizes": [[0.0, 8], [0.5, 12]], "remeasure_statistics": 2}
    recipe = small_recipe(
        train=train | {"validate_every": 0}, augment=[{"op": "cutmix", "per": "batch"}]
    )
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir, callbacks=[counting])
    assert counting.calls == ["begin", 0, 1, "end"]
    assert "sizes    8 px in epoch 1, then 12 px in epoch 2" in capsys.readouterr().err
    assert [row["size"] for row in straight.history] == ["8", "12"]
    assert load_model(straight.model).input_shape == (None, 16, 16, 3)
    assert straight.metrics["model.keras"]["count"] == 40
    with pytest.raises(Stopped, match="after epoch 1"):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[SignalAt(0, 5)])
    same_end(straight, fit(recipe, tmp_path / "run", data_dir=data_dir))


def test_a_bad_step_of_a_small_epoch_is_found(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(train={"epochs": 2, "sizes": HALF})
    poison = Poison(0, 3, times=99)
    with pytest.raises(RunFailed, match="not finite at step 4 of epoch 1"):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[poison])
    newest = list_checkpoints(tmp_path / "run/checkpoints")[-1]
    assert newest.name == "epoch-0000-step-0000003.safetensors"


@pytest.mark.backend
def test_a_loop_of_your_own_makes_its_step_anew_for_each_size(small_recipe, data_dir):
    setup = training_setup(small_recipe(train={"epochs": 2, "sizes": HALF}), data_dir=data_dir)
    for epoch in range(2):
        images, labels = setup.stream.batch(epoch, 0)
        assert images.shape[1] == (8, 16)[epoch]
        setup.model.make_train_function(force=True)
        assert np.isfinite(setup.model.train_on_batch(images, labels)[0])
    assert setup.network.inputs[0].shape == (None, 16, 16, 3)
    assert [each.inputs[0].shape for each in setup.smaller.values()] == [(None, 8, 8, 3)]
    with pytest.raises(ValueError, match=r"(?i)shape"):  # the network itself takes no other size
        setup.network(PIXELS[:, :8, :8])


def test_a_model_of_your_own_stays_as_it_is(small_recipe, data_dir, tmp_path):
    inputs = keras.Input((16, 16, 3))
    conv = keras.layers.Conv2D(4, 3, 2, padding="same", name="conv")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(conv)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(pooled), name="mine")
    recipe = small_recipe(train={"epochs": 2, "validate_every": 0, "sizes": HALF})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir, model=model)
    assert load_model(run.model).input_shape == (None, 16, 16, 3)
    assert model(PIXELS).shape == (4, 10)
    with pytest.raises(ValueError, match=r"(?i)shape"):
        model(PIXELS[:, :8, :8])
