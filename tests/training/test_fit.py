"""The whole path from a recipe to files: what a user finds afterwards, and what stops a run."""

import os
import signal
from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import WNIDS, write_images
from same_end import same_end
from untrained_run import write_run

from keras_imnet64 import training_setup
from keras_imnet64.core.errors import RunFailed, Stopped, UserError
from keras_imnet64.evaluation.evaluate import evaluate
from keras_imnet64.models import build_model
from keras_imnet64.models.info import model_info
from keras_imnet64.models.load import load_model
from keras_imnet64.models.ship import ship
from keras_imnet64.records import EpochRow, ModelInfo, RunState
from keras_imnet64.runs import create_run, lock
from keras_imnet64.training.callbacks.recording import line_of
from keras_imnet64.training.data import load_data
from keras_imnet64.training.fit import fit, log_start
from keras_imnet64.training.memory import out_of_memory_advice


class SignalAt(keras.callbacks.Callback):
    """Sends this process a signal in a step, as a scheduler or Ctrl-C would."""

    def __init__(self, epoch, step, number=signal.SIGTERM):
        super().__init__()
        self.at, self.number, self.epoch = (epoch, step), number, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def learned(small_recipe, data_dir, tmp_path_factory):
    """A run of eight epochs that scores held-out images."""
    recipe = small_recipe(
        model={"width": 1},
        data={"holdout": 16},
        optimizer={"learning_rate": 0.1},
        train={"epochs": 8},
    )
    return fit(recipe, tmp_path_factory.mktemp("learned") / "run", data_dir=data_dir)


@pytest.mark.backend
def test_a_run_leaves_what_the_readme_promises(learned):
    run = learned
    names = {path.name for path in run.path.iterdir()}
    files = {"recipe.toml", "environment.json", "history.csv", "metrics.json", "classes.txt"}
    assert files | {"checkpoints", "best.keras", "model.keras", "logs"} <= names
    assert [row["epoch"] for row in run.history] == [str(epoch) for epoch in range(1, 9)]
    assert [row["step"] for row in run.history] == [str(5 * epoch) for epoch in range(1, 9)]
    metrics = run.metrics
    assert metrics["verified"] is False
    assert metrics["dataset"] == "imagenet_resized/16x16"
    assert metrics["model.keras"]["count"] == 40  # 40 images in batches of 256
    assert metrics["model.keras"]["top1"] > 30  # chance is 10
    best = max(run.history, key=lambda row: (float(row["val_top1"]), -float(row["val_loss"])))
    assert metrics["best.keras"]["val_top1"] == pytest.approx(float(best["val_top1"]))
    assert run.environment["verified"] == {"train": False, "validation": False}
    assert run.classes_file.read_text().splitlines()[0] == "class 30"
    assert list(run.logs.glob("events*"))


@pytest.mark.backend
def test_scores_are_those_of_the_file_computed_by_hand(learned, data_dir):
    run = learned
    from keras_imnet64.data.datasets import open_dataset

    store = open_dataset("imagenet_resized/16x16", "validation", data_dir=data_dir)
    logits = load_model(run.model).predict(store.images, verbose=0).astype("float64")
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-logits, axis=1)
    expected = {
        "top1": 100 * np.mean(order[:, 0] == store.labels),
        "top5": 100 * np.mean((order[:, :5] == store.labels[:, None]).any(1)),
        "loss": -np.mean(log_softmax[np.arange(40), store.labels]),
        "count": 40,
    }
    assert run.metrics["model.keras"] == pytest.approx(expected, rel=1e-5)
    scored = evaluate(run.path, data_dir=data_dir)
    assert {key: scored[key] for key in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [(0, 0), (1, 1), (1, 4), (2, 4)], ids=str)
@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.05}},
        {"optimizer": {"name": "muon", "learning_rate": 0.003}, "train": {"ema": 0.5}},
        {"train": {"dtype": "mixed_bfloat16"}, "data": {"mirror": "both", "steps_per_epoch": 5}},
        {
            "train": {"accumulate_steps": 2},
            "data": {"steps_per_epoch": 5},
            "model": {"dropout": 0.3},
        },
        {
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"name": "plateau", "patience": 1, "factor": 0.5},
            "train": {"early_stopping": 2},
        },
    ],
    ids=["adamw", "muon-ema", "bfloat16-both", "accumulation-dropout", "plateau"],
)
def test_interrupted_anywhere_with_anything(sections, at, number, small_recipe, data_dir, tmp_path):
    """First step, mid-epoch, an epoch's last step, the run's last step; each way of training."""
    sections = sections | {"data": {"holdout": 16} | sections.get("data", {})}
    recipe = small_recipe(**sections)
    straight = fit(recipe, tmp_path / "straight", data_dir=data_dir)
    with pytest.raises(Stopped):
        fit(recipe, tmp_path / "run", data_dir=data_dir, callbacks=[SignalAt(*at, number)])
    same_end(straight, fit(recipe, tmp_path / "run", data_dir=data_dir))


@pytest.fixture
def finished(small_recipe, data_dir, tmp_path):
    """A run of one epoch that has ended; nobody has trained it."""
    return write_run(tmp_path / "run", small_recipe(train={"epochs": 1}), 1, data_dir)


def test_a_finished_run_is_never_overwritten(finished, small_recipe, data_dir):
    recipe = small_recipe(train={"epochs": 1})
    before = (finished / "model.keras").read_bytes()
    with pytest.raises(UserError, match="finished and is never overwritten"):
        fit(recipe, finished, data_dir=data_dir)
    with pytest.raises(UserError, match=r"train\.epochs: 1 -> 2"):
        fit(small_recipe(train={"epochs": 2}), finished, data_dir=data_dir)
    recipe = small_recipe(data={"steps_per_epoch": 1}, train={"epochs": 1, "validate_every": 0})
    fit(recipe, finished, data_dir=data_dir, fresh=True)
    assert (finished.with_name("run.1") / "model.keras").read_bytes() == before
    assert (finished / "model.keras").read_bytes() != before


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"dataset": "imagenet_resized/8x8"}}, "data prepare imagenet_resized/8x8"),
        ({"optimizer": {"name": "sdg"}}, 'did you mean "sgd"'),
        ({"model": {"depth": 9}}, "the nearest that fits is 8"),
        ({"model": {"dropout": 1.5}}, "model.dropout must be a number of at least 0"),
        ({"schedule": {"warmup_epochs": 9}}, "schedule.warmup_epochs must lie below"),
        ({"augment": [{"op": "pad_crop", "padding": 16}]}, "padding must be below the image size"),
        ({"train": {"initial_weights": "nowhere.keras"}}, "nowhere.keras is not a file"),
        ({"data": {"batch_size": 97}}, "data.batch_size must be at most 96"),
    ],
)
def test_a_refused_run_leaves_no_folder(sections, message, small_recipe, data_dir, tmp_path):
    with pytest.raises(UserError, match=message):
        fit(small_recipe(**sections), tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("at_home", [False, True])
def test_a_folder_that_holds_something_else_is_left_alone(
    at_home, small_recipe, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".bashrc").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        fit(small_recipe(), "~" if at_home else tmp_path, data_dir=data_dir)
    assert [path.name for path in tmp_path.iterdir()] == [".bashrc"]


def test_a_run_does_not_go_on_with_other_images(small_recipe, data_dir, tmp_path):
    with pytest.raises(Stopped):
        fit(small_recipe(), tmp_path / "run", data_dir=data_dir, callbacks=[SignalAt(0, 0)])
    other = write_images(tmp_path / "other", train=97)
    with pytest.raises(UserError, match=r"the train images of .* differ from those with which"):
        fit(small_recipe(), tmp_path / "run", data_dir=other)


def test_a_head_of_as_many_other_classes_is_made_anew(
    finished, small_recipe, data_dir, tmp_path, capsys
):
    other = write_images(tmp_path / "other", wnids=WNIDS[::-1])
    recipe = small_recipe(train={"initial_weights": str(finished / "model.keras")})
    setup = training_setup(recipe, data_dir=other)
    shown = capsys.readouterr().err
    assert "logits/kernel: the file has other classes" in shown
    assert "stem_conv" not in shown
    old, new = load_model(finished / "model.keras"), setup.network
    for layer, is_same in (("stem_conv", True), ("logits", False)):
        kernels = [keras.ops.convert_to_numpy(m.get_layer(layer).kernel) for m in (old, new)]
        assert np.array_equal(*kernels) == is_same


def test_an_own_model_must_fit_the_data(small_recipe, data_dir, tmp_path):
    model = build_model("wide_resnet", image_size=16, num_classes=5, depth=8, width=1)
    with pytest.raises(UserError, match="needs one for each of 10 classes"):
        fit(small_recipe(), tmp_path / "run", model=model, data_dir=data_dir)


def test_two_processes_do_not_train_into_one_folder(small_recipe, data_dir, tmp_path):
    """The second is refused, and leaves alone what the first is just writing."""
    run = create_run(tmp_path / "run")
    half_written = run.checkpoints / ".epoch.writing"
    with lock(run), pytest.raises(UserError, match="another process"):
        half_written.write_bytes(b"the first process's")
        fit(small_recipe(), tmp_path / "run", data_dir=data_dir)
    assert half_written.exists()


def test_a_run_that_another_process_has_just_finished_is_not_overwritten(
    small_recipe, data_dir, tmp_path, monkeypatch
):
    """It is unfinished when this call begins and finished when the folder becomes free."""
    recipe = small_recipe(train={"epochs": 1})

    def finish_meanwhile(*arguments):
        write_run(tmp_path / "run", recipe, 0, data_dir)
        return load_data(*arguments)

    monkeypatch.setattr("keras_imnet64.training.setup.load_data", finish_meanwhile)
    with pytest.raises(UserError, match="finished and is never overwritten"):
        fit(recipe, tmp_path / "run", data_dir=data_dir)


@pytest.mark.backend
def test_devices_are_taken_before_anything_uses_them(small_recipe, tmp_path, monkeypatch):
    """An optimizer's variables would start TensorFlow, whose GPUs can then not be chosen."""

    def refuse():
        raise UserError("devices come first")

    monkeypatch.setattr("keras_imnet64.training.fit.take_devices", refuse)
    with pytest.raises(UserError, match="devices come first"):
        fit(small_recipe(), tmp_path / "run")


def test_out_of_memory_names_the_remedy(small_recipe, data_dir, tmp_path):
    class Full(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")

    both = r"--set train\.remat=true resumes .*; or --fresh --set train\.accumulate_steps=2"
    with pytest.raises(RunFailed, match=both):
        fit(small_recipe(), tmp_path / "run", data_dir=data_dir, callbacks=[Full()])
    recipe = small_recipe(train={"remat": True})
    with pytest.raises(RunFailed, match=r"step: --fresh --set train\.accumulate_steps=2"):
        fit(recipe, tmp_path / "other", data_dir=data_dir, callbacks=[Full()])


def test_parts_that_are_advised_are_divided_among_the_devices():
    assert "accumulate_steps=5 " in out_of_memory_advice(100, 1, 4, remat_is_off=False)
    assert out_of_memory_advice(100, 5, 4, remat_is_off=False).count("accumulate_steps=25 ") == 1
    assert "smaller data.batch_size" in out_of_memory_advice(100, 25, 4, remat_is_off=False)


def test_fine_tuning_takes_all_but_the_head(finished, small_recipe, data_dir, tmp_path, capsys):
    """To four classes, the first ids in sorted order: labels 9, 8, 7, 6 of the data set.

    By their ids the file is scored on their images alone.
    """
    taken = {"initial_weights": str(finished / "model.keras"), "epochs": 1, "validate_every": 0}
    recipe = small_recipe(
        train=taken,
        data={"classes": 4, "steps_per_epoch": 1},
        optimizer={"learning_rate": 1e-30},
        loss={"l2": 0.0},
    )
    second = fit(recipe, tmp_path / "second", data_dir=data_dir)
    shown = capsys.readouterr().err
    assert "logits/kernel: the file has other classes" in shown
    assert "stem_conv" not in shown
    old, new = load_model(finished / "model.keras"), load_model(second.model)
    stems = [keras.ops.convert_to_numpy(m.get_layer("stem_conv").kernel) for m in (old, new)]
    assert np.array_equal(*stems)
    assert model_info(second.model)["wnids"] == ["n00000021", "n00000022", "n00000023", "n00000024"]
    capsys.readouterr()
    scored = evaluate(second.model, data_dir=data_dir)
    assert (scored["count"], scored["classes"]) == (16, 4)
    assert "left_out" not in scored and "left out" not in capsys.readouterr().err  # as chosen
    assert scored["top1"] == pytest.approx(second.metrics["model.keras"]["top1"])
    info = ModelInfo(dataset="imagenet_resized/16x16", wnids=tuple(sorted(WNIDS)[:4]))
    ship(new, tmp_path / "other.keras", info)
    assert evaluate(tmp_path / "other.keras", data_dir=data_dir)["left_out"] == 24
    said = capsys.readouterr().err.replace("\n", " ")
    assert "24 of 40 images of imagenet_resized/16x16 validation are left out" in said


@pytest.mark.parametrize(
    ("every", "holdout", "scored"),
    [(2, 16, [2, 3]), pytest.param(5, 0, [3], marks=pytest.mark.slow), (0, 0, [])],
)
def test_epochs_without_scores(small_recipe, data_dir, tmp_path, capsys, every, holdout, scored):
    recipe = small_recipe(data={"holdout": holdout}, train={"epochs": 3, "validate_every": every})
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    assert [int(row["epoch"]) for row in run.history if row["val_top1"]] == scored
    assert all(row["top1"] for row in run.history)
    lines = [line for line in capsys.readouterr().err.splitlines() if "images/s" in line]
    assert sum("val_top1" in line for line in lines) == len(scored)
    assert run.metrics["best.keras"]["epoch"] in (scored if holdout else [3])
    assert run.metrics["model.keras"]["count"] > 0


def test_an_epoch_is_told_in_100_characters():
    row = EpochRow(300, 10**6, 3.894e-07, 2.1874, 71.257, 93.1, None, None, None, 345.4, 12345.1)
    told = "epoch 300/600  loss 2.187  top1 71.3  lr 3.9e-07  345 images/s"
    assert line_of(row, 600) == told
    alone = replace(row, images_per_second=None)  # an epoch of one step
    assert line_of(alone, 600) == told.removesuffix("  345 images/s")
    scored = replace(row, val_loss=0.010234, val_top1=99.96)
    scores = "  val_loss 0.010  val_top1 100.0"
    assert line_of(scored, 600) == told.replace("  lr", f"{scores}  lr")
    longest = replace(scored, loss=13.509, top1=99.96, val_loss=12.345, images_per_second=123456.7)
    assert len(line_of(longest, 600)) <= 100


@pytest.mark.backend
def test_early_stopping_and_plateau(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(
        data={"holdout": 16},
        optimizer={"learning_rate": 1e-30},  # nothing ever gets better
        schedule={"name": "plateau", "patience": 1, "factor": 0.5, "min_delta": 1.0},
        loss={"l2": 0.0},
        train={"epochs": 9, "early_stopping": 3},
    )
    run = fit(recipe, tmp_path / "run", data_dir=data_dir)
    rates = [float(row["learning_rate"]) / 1e-30 for row in run.history]
    # The first epoch is the best and three bring nothing, each of which halves the next one's rate.
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.25])
    assert run.metrics["best.keras"]["epoch"] == 1


# Ways of training, and what the mean loss of the twelfth epoch must come below. It comes a tenth or
# more below that, and at a tenth of the rate it stays a tenth or more above.
LEARNING = {
    "adamw": (
        {"optimizer": {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.05}},
        2.0,
    ),
    "muon": ({"optimizer": {"name": "muon", "learning_rate": 0.003, "clip_norm": 1.0}}, 2.2),
    "accumulation": (
        {"train": {"accumulate_steps": 2, "ema": 0.5}, "loss": {"label_smoothing": 0.1}},
        1.95,
    ),
    "bfloat16": ({"train": {"dtype": "mixed_bfloat16"}, "data": {"mirror": "both"}}, 1.4),
    "one_cycle": ({"schedule": {"name": "one_cycle"}}, 1.75),
    "mixing": (
        {
            "augment": [{"op": "trivial_augment"}, {"op": "mixup_or_cutmix", "probability": 0.5}],
            "data": {"mirror": "alternating"},
        },
        2.15,
    ),
}


@pytest.mark.parametrize(
    "case",
    [
        # test_optim compares the numbers of the optimizers, accumulation and schedules, test_loss
        # those of mixed labels, and test_shipped_recipes trains with all of them.
        pytest.param(case, marks=pytest.mark.backend if case == "bfloat16" else pytest.mark.slow)
        for case in LEARNING
    ],
)
def test_training_learns_with(case, small_recipe, data_dir, tmp_path):
    """Each way of training brings the loss down and ships a float32 model."""
    sections, limit = LEARNING[case]
    train = {"epochs": 12} | sections.get("train", {})
    recipe = small_recipe(**sections | {"train": train, "model": {"width": 1}})
    run = fit(recipe, tmp_path, data_dir=data_dir)
    assert float(run.history[-1]["loss"]) < limit
    model = load_model(run.model)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.mark.backend
def test_own_model_and_callbacks(learned, small_recipe, data_dir, tmp_path, capsys):
    inputs = keras.Input((16, 16, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x), name="mine")
    seen = []

    class EndsInTheSecond(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs)

        def on_train_batch_end(self, batch, logs=None):
            if len(seen) == 1 and batch == 5:  # the last, where we stop Keras too
                self.model.stop_training = True

    callbacks = [EndsInTheSecond()]
    run = fit(small_recipe(), tmp_path, model=model, callbacks=callbacks, data_dir=data_dir)
    said = capsys.readouterr().err
    assert len(seen) == len(run.history) == 2 and run.is_finished
    for logs, row in zip(seen, run.history, strict=True):
        assert {key: logs[key] for key in ("val_loss", "val_top1", "val_top5")} == {
            key: pytest.approx(float(row[key])) for key in ("val_loss", "val_top1", "val_top5")
        }
    assert "a callback ended this run after epoch 2 of 3" in said
    assert [layer.name for layer in load_model(run.model).layers][-1] == "logits"
    assert "model    mine, your own: 7,690 parameters" in said
    assert run.environment["own_model"] is model_info(run.model)["own_model"] is True
    assert learned.environment["own_model"] is model_info(learned.model)["own_model"] is False


@pytest.mark.backend
def test_xla_off_is_refused_where_it_cannot_be(small_recipe, data_dir, tmp_path):
    recipe = small_recipe(
        data={"steps_per_epoch": 1}, train={"xla": "off", "epochs": 1, "validate_every": 0}
    )
    if keras.config.backend() == "jax":
        with pytest.raises(UserError, match="always compiles"):
            fit(recipe, tmp_path, data_dir=data_dir)
    else:
        fit(recipe, tmp_path, data_dir=data_dir)


def test_classes_that_the_holdout_takes_as_a_whole_are_named(small_recipe, data_dir, capsys):
    """92 of 96 images in 10 classes."""
    data = {"holdout": 92, "batch_size": 4, "steps_per_epoch": 1}
    log_start(training_setup(small_recipe(data=data), data_dir=data_dir), RunState(0, 0))
    assert "data.holdout = 92 leaves no training images of class " in capsys.readouterr().err


def test_evaluate_refuses_what_does_not_fit(small_recipe, data_dir, tmp_path):
    model = build_model("wide_resnet", image_size=32, num_classes=10, depth=10, width=0.5)
    model.save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="is not a run folder"):
        evaluate(tmp_path, data_dir=data_dir)
    with pytest.raises(UserError, match="name one with --dataset"):
        evaluate(tmp_path / "other.keras", data_dir=data_dir)
    with pytest.raises(UserError, match=r"takes images of 32 x 32"):
        evaluate(tmp_path / "other.keras", dataset="imagenet_resized/16x16", data_dir=data_dir)
    (tmp_path / "broken.keras").write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"is not a \.keras file"):
        evaluate(tmp_path / "broken.keras", data_dir=data_dir)


class Blur(keras.layers.Layer):
    """A layer that only this process knows."""

    def call(self, x):
        return x


class Subclassed(keras.Model):
    def call(self, x):
        return x


def shared_inside():
    """A layer that stands both inside a model within the model and beside it."""
    pixels, conv = keras.Input((16, 16, 3)), keras.layers.Conv2D(3, 3, padding="same")
    inner = keras.Sequential([keras.Input((16, 16, 3)), conv])
    pool = keras.layers.GlobalAveragePooling2D()(conv(inner(pixels)))
    return keras.Model(pixels, keras.layers.Dense(10)(pool))


def own_models():
    pixels = keras.Input((16, 16, 3))
    pool, logits = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)
    flat = keras.layers.Lambda(lambda x: x[:, 0, 0])
    return {
        "your model has Blur of test_fit": keras.Model(pixels, logits(pool(Blur()(pixels)))),
        "your model has a Lambda layer": keras.Model(pixels, keras.layers.Dense(10)(flat(pixels))),
        "your model does not state the shapes": Subclassed(),
        "your model does not state": keras.Sequential([keras.layers.Flatten()]),
        "your model uses the layer of .* twice": shared_inside(),
        "your model gives probabilities, but": keras.Sequential(
            [pixels, keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
        ),
        r"your model gives \[None, 3\] and \[None, 3\]": keras.Model(
            pixels, [pool(pixels), keras.layers.GlobalMaxPooling2D()(pixels)]
        ),
        "gives 3 logits; imagenet_resized/16x16 needs one for each of 10": keras.Model(
            pixels, pool(pixels)
        ),
    }


@pytest.mark.backend
def test_an_own_model_that_could_not_ship_is_refused_before_training(
    small_recipe, data_dir, tmp_path
):
    for message, model in own_models().items():
        with pytest.raises(UserError, match=message):
            fit(small_recipe(), tmp_path / "run", model=model, data_dir=data_dir)
    assert list(tmp_path.iterdir()) == []


def test_a_model_trains_on_in_another_run(small_recipe, data_dir, tmp_path):
    """As in a notebook: the same model object again, from the weights that it has."""
    keras.utils.set_random_seed(0)
    pixels, scale = keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255)
    inner = keras.Sequential([keras.Input((16, 16, 3)), scale, keras.layers.Flatten()])
    model = keras.Model(pixels, keras.layers.Dense(10)(inner(pixels)))
    recipe = small_recipe(train={"epochs": 1, "validate_every": 0})
    first = fit(recipe, tmp_path / "1", model=model, data_dir=data_dir)
    second = fit(recipe, tmp_path / "2", model=model, data_dir=data_dir)
    assert float(second.history[0]["loss"]) < float(first.history[0]["loss"])
    images = np.zeros((2, 16, 16, 3), "uint8")
    loaded = load_model(second.model).predict(images, verbose=0)
    np.testing.assert_allclose(loaded, model.predict(images, verbose=0), rtol=1e-5)


def test_a_rate_that_never_falls_is_noted(small_recipe, data_dir, capsys):
    for epochs, is_noted in (([1.0, 9.0], False), ([2.0], True)):
        schedule = {"name": "step", "epochs": epochs}
        recipe = small_recipe(schedule=schedule, train={"epochs": 2}, data={"steps_per_epoch": 1})
        log_start(training_setup(recipe, data_dir=data_dir), RunState(0, 0))
        said = capsys.readouterr().err
        assert ("the rate does not fall: schedule.epochs begins with 2, and the run" in said) == (
            is_noted
        )


def test_a_recipe_may_be_named(data_dir, tmp_path):
    with pytest.raises(UserError, match='did you mean "demo"'):
        fit("demmo", tmp_path / "run", data_dir=data_dir)
