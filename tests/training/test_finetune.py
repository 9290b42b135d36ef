"""Runs that start from a model's file and freeze layers: what trains, what ships, what resumes."""

import shutil

import keras
import numpy as np
import pytest
from class_folders import indexed
from conftest import ON_MACOS
from test_fit import SignalAt
from test_interruption import check_kills
from untrained_run import write_run

from keras_imnet64.backend.cluster import ALONE
from keras_imnet64.core.errors import Stopped, UserError
from keras_imnet64.models import build_model
from keras_imnet64.models.keras_private import all_layers
from keras_imnet64.models.load import load_model
from keras_imnet64.models.paths import SEED_STATE, by_path
from keras_imnet64.models.warm_start import find_weights
from keras_imnet64.recipe.loading import check_recipe, load_recipe
from keras_imnet64.runs import Run
from keras_imnet64.training.fit import fit
from keras_imnet64.training.run_folder import keep_initial_weights
from keras_imnet64.training.setup import check_setup, training_setup
from keras_imnet64.training.state import list_checkpoints, load_checkpoint

HEAD = ("logits/kernel", "logits/bias")
FROZEN = ("stem_conv/", "stem_bn/", "stage1_block1_2_bn/")  # what `freeze` names below
FINETUNE = {  # everything that touches weights and averages
    "data": {"mirror": "random", "holdout": 16, "classes": 7, "steps_per_epoch": 3},
    "loss": {"l2": 1e-2, "l2_of": "all"},
    "optimizer": {
        "name": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "lookahead": {"steps": 2},
        "groups": [{"variables": "^(?!logits/)", "learning_rate_factor": 0.5}],
    },
    "train": {
        "freeze": ["stem", "stage1_block1_2_bn"],
        "epochs": 3,
        "average_last": 2,
        "accumulate_steps": 2,
        "dtype": "mixed_bfloat16",
        "sizes": [[0.0, 8], [0.3, 16]],
        "remeasure_statistics": 2,
        "remat": True,
        "checkpoint_every": "2 steps",
    },
}


def arrays(path):
    """The weights of a file, without the seeds of dropout, which a file does not hold."""
    found = by_path(load_model(path)).items()
    return {p: keras.ops.convert_to_numpy(v) for p, v in found if v.name != SEED_STATE}


@pytest.fixture(scope="module")
def source(small_recipe, data_dir, tmp_path_factory):
    """The file of a model with dropout for ten classes."""
    folder = tmp_path_factory.mktemp("source") / "run"
    write_run(folder, small_recipe(model={"dropout": 0.2}), 1, data_dir)
    return folder / "model.keras"


@pytest.fixture(scope="module")
def finetuned(source, small_recipe, data_dir, tmp_path_factory):
    recipe = small_recipe(model={"name": "file", "path": str(source)}, **FINETUNE)
    return recipe, fit(recipe, tmp_path_factory.mktemp("finetuned") / "run", data_dir=data_dir)


def test_frozen_weights_ship_as_in_the_file_and_all_others_train(source, finetuned):
    """In the file, the checkpoint and the optimizer; the head is one for the new classes.

    Under JAX the probe below freezes layers.
    """
    _, run = finetuned
    before, after = arrays(source), arrays(run.model)
    assert after.keys() == before.keys()
    assert after["logits/kernel"].shape[-1] == 7
    for path in before.keys() - set(HEAD):
        same = np.array_equal(before[path], after[path])
        assert same == path.startswith(FROZEN), path
    saved = load_checkpoint(list_checkpoints(run.checkpoints)[-1]).arrays
    assert {f"model/{path}" for path in after} <= saved.keys()
    slots = [path for path in saved if path.startswith("optimizer/")]
    assert any("stage1_block1_conv1_kernel" in path for path in slots)
    assert not [p for p in slots if "stem_" in p or "stage1_block1_2_bn" in p]
    assert np.array_equal(saved["model/stem_conv/kernel"], before["stem_conv/kernel"])


def test_what_ships_is_not_frozen(finetuned):
    for path in (finetuned[1].model, finetuned[1].best):
        model = load_model(path)
        weighted = [layer for layer in all_layers(model) if layer.weights]
        fixed = [layer.name for layer in weighted if not layer.trainable]
        assert fixed == []


@pytest.mark.skipif(ON_MACOS, reason="its libraries do not outlive a fork")
def test_a_kill_within_a_step_ends_with_the_bits_of_a_straight_run(finetuned, data_dir, tmp_path):
    """In the last epoch, when the mean has one of its two."""
    recipe, straight = finetuned
    check_kills(recipe, ["during step 15"], data_dir, tmp_path, straight)


def test_a_file_that_moved_is_taken_and_one_that_changed_is_refused(
    source, small_recipe, data_dir, tmp_path
):
    file = tmp_path / "a.keras"
    shutil.copy(source, file)

    def recipe(path):
        model = {"name": "file", "path": str(path)}
        train = {"epochs": 2, "validate_every": 0}
        return small_recipe(model=model, data={"steps_per_epoch": 2}, train=train)

    with pytest.raises(Stopped):
        fit(recipe(file), tmp_path / "run", data_dir=data_dir, callbacks=[SignalAt(0, 1)])
    assert load_recipe(tmp_path / "run" / "recipe.toml").model.sha256 is not None
    moved = file.rename(tmp_path / "b.keras")
    with pytest.raises(UserError, match=r"a.keras is not a file; a .keras file is needed"):
        fit(recipe(file), tmp_path / "run", data_dir=data_dir)
    build_model("wide_resnet", image_size=16, num_classes=10, depth=6, width=0.5, stages=1).save(
        file
    )
    with pytest.raises(UserError, match=r"of another recipe \(model.sha256: .* -> "):
        fit(recipe(file), tmp_path / "run", data_dir=data_dir)
    fit(recipe(moved), tmp_path / "run", data_dir=data_dir)
    assert Run(tmp_path / "run").is_finished
    (tmp_path / "b.keras").unlink()
    load_recipe(tmp_path / "run" / "recipe.toml")  # of a run that is finished needs no file


@pytest.mark.backend
def test_a_probe_keeps_every_weight_but_the_heads_and_can_be_trained_on(
    source, small_recipe, data_dir, tmp_path, capsys
):
    """Muon has no kernel of its own here; the second run keeps the first one's head."""
    probe = small_recipe(
        model={"name": "file", "path": str(source)},
        data={"classes": 5, "steps_per_epoch": 2},
        loss={"l2": 0.0},
        optimizer={"name": "muon", "learning_rate": 0.01},
        train={"epochs": 1, "validate_every": 0, "freeze": "backbone", "ema": 0.5},
    )
    run = fit(probe, tmp_path / "probe", data_dir=data_dir)
    err = capsys.readouterr().err
    assert f"model    file {source}: " in err
    features, _ = arrays(source)["logits/kernel"].shape
    assert f"parameters, of which {5 * features + 5} train" in err
    assert f"not taken from {source}: logits/kernel: the file has other classes" in err
    before, after = arrays(source), arrays(run.model)
    assert [path for path in after if not np.array_equal(after[path], before[path])] == list(HEAD)
    further = small_recipe(
        model={"name": "file", "path": str(run.model)},
        data={"classes": 5, "steps_per_epoch": 2},
        train={"epochs": 1, "freeze": ["stem"]},
    )
    setup = training_setup(further, data_dir=data_dir)
    assert "not taken" not in capsys.readouterr().err
    head = keras.ops.convert_to_numpy(setup.network.get_layer("logits").kernel)
    assert np.array_equal(head, after["logits/kernel"])


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"train": {"freeze": ["stage2"]}}, r'received "stage2": did you mean "stage1"\?'),
        (
            {"train": {"freeze": ["stem", "stage1", "final", "logits"]}},
            "must leave a layer that trains",
        ),
        (
            {"train": {"freeze": "backbone", "remeasure_statistics": 1}},
            "whose batch normalisation is frozen",
        ),
        (
            {
                "train": {"freeze": ["stem"]},
                "optimizer": {"groups": [{"variables": "^stem", "learning_rate_factor": 0.1}]},
            },
            "must match the path of a trainable variable",
        ),
        ({"train": {"freeze": []}}, "train.freeze must be a list of names"),
        ({"train": {"freeze": "stem"}}, 'train.freeze must be .* or "backbone"; received "stem"'),
    ],
)
def test_what_cannot_be_frozen_is_refused(sections, sentence, small_recipe):
    from keras_imnet64.backend.devices import take_devices

    with pytest.raises(UserError, match=sentence):
        check_setup(small_recipe(**sections), take_devices())


def test_a_model_of_ones_own_is_frozen_by_its_owner(small_recipe, data_dir, tmp_path):
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=6, width=0.5, stages=1)
    with pytest.raises(UserError, match=r"set layer.trainable = False in layers of your own"):
        fit(
            small_recipe(train={"freeze": ["stem"]}), tmp_path / "r", model=model, data_dir=data_dir
        )
    assert model.get_layer("stem_conv").trainable


def test_a_model_of_ones_own_has_its_weights(small_recipe, data_dir, tmp_path):
    model = build_model("wide_resnet", image_size=16, num_classes=10, depth=6, width=0.5, stages=1)
    recipe = small_recipe(train={"initial_weights": "b.keras"})
    with pytest.raises(UserError, match=r'your own model has its weights.*received "?.b.keras'):
        fit(recipe, tmp_path / "r", model=model, data_dir=data_dir)


def test_weights_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b.keras").touch()
    assert find_weights("~/b.keras") == tmp_path / "b.keras"


def test_a_run_that_resumes_states_the_weights_that_it_began_with(small_recipe, tmp_path, capsys):
    began, other = (small_recipe(train={"initial_weights": f"{name}.keras"}) for name in "ab")
    (tmp_path / "recipe.toml").write_text(began.to_toml())
    kept = keep_initial_weights(other, tmp_path, ALONE)
    assert kept.train.initial_weights == "a.keras"
    assert "began with the weights of a.keras" in capsys.readouterr().err
    assert keep_initial_weights(began, tmp_path, ALONE) == began


def test_two_files_with_weights_are_one_too_many(small_recipe):
    with pytest.raises(UserError, match=r'remove train.initial_weights; received "b.keras"'):
        small_recipe(
            model={"name": "file", "path": "a.keras"}, train={"initial_weights": "b.keras"}
        )


@pytest.mark.parametrize(
    "name", [pytest.param("finetune", marks=pytest.mark.slow), "finetune_probe"]
)
def test_the_recipes_take_a_folder_of_images_and_any_file(name, source, tmp_path, run):
    """By the command line, of another number of pixels than the recipe has."""
    indexed(tmp_path)
    status, _, err = run(
        *("fit", "--recipe", name, "--data-dir", tmp_path / "data", "--out", tmp_path / "run"),
        *("--set", f'model.path="{source}"', "--set", "data.image_size=16"),
        *("--set", 'data.dataset="image_folder/toy"', "--set", "data.batch_size=4"),
        *("--set", "train.epochs=1"),
    )
    assert status == 0, err
    found = Run(tmp_path / "run").metrics
    assert found["model.keras"]["count"] == 3
    assert load_model(Run(tmp_path / "run").model).output_shape == (None, 3)


def test_a_listing_says_how_many_parameters_train(source, tmp_path, run, small_recipe):
    recipe = small_recipe(
        model={"name": "file", "path": str(source)},
        data={"classes": 10},
        train={"freeze": ["stem", "stage1_block1_2_bn"]},
    )
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    status, out, err = run("recipes", "show", tmp_path / "mine.toml")
    assert status == 0, err
    model = load_model(source)
    total = sum(np.size(v) for v in model.trainable_variables)
    gone = sum(np.size(v) for v in model.trainable_variables if v.path.startswith(FROZEN))
    assert 0 < gone < total
    assert f"# parameters  {total:,}, of which {total - gone:,} train" in out
    assert "# frozen      the layers whose names begin with stem, stage1_block1_2_bn" in out
    status, out, _ = run("recipes", "show", "finetune_probe")
    assert "# frozen      all layers but logits" in out


def test_another_network_drops_the_normalisation_that_it_does_not_take(small_recipe):
    recipe = load_recipe("demo", ['model = {name = "file", path = "x.keras"}'])
    assert recipe.model.normalization == "file"
    back = load_recipe("finetune", ['model = {name = "resnet18"}'])
    assert back.model.normalization == "imagenet"
    content = recipe.model_dump(exclude_none=True)
    content["model"]["normalization"] = "dataset"
    with pytest.raises(UserError, match=r'model.normalization must be "file"; received "dataset"'):
        check_recipe(content)
