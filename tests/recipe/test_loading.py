"""Recipes: loading, overriding, saving, and one sentence for each mistake."""

import os
import tomllib

import pytest

from keras_imnet64.core.errors import UserError
from keras_imnet64.recipe.difference import (
    decisions,
    difference,
    other_weights,
    refuse_other_recipe,
)
from keras_imnet64.recipe.loading import (
    check_recipe,
    list_recipes,
    load_recipe,
    override,
    parse_override,
)
from keras_imnet64.recipe.setting_names import OTHER_WORDS, settings_called

PAPER = {"wrn36_5", "wrn36_2", "wrn28_10", "wrn28_2", "wrn20_10"}


def minimal(**sections):
    content = {
        "name": "mine",
        "model": {"name": "wide_resnet", "depth": 20, "width": 1},
        "data": {"dataset": "imagenet_resized/16x16", "batch_size": 128},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"epochs": 1},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values if isinstance(values, dict) else values
    return content


def test_the_recipes_of_the_paper_and_the_first_steps_are_shipped():
    assert {"demo", "tiny20_wrn"} | PAPER <= set(list_recipes())


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_loads_and_survives_saving(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_recipes_are_the_papers_run(name):
    recipe = load_recipe(name)
    assert recipe.data.batch_size * recipe.data.steps_per_epoch == 2_561_280
    assert recipe.optimizer.options == {"momentum": 0.9, "nesterov": False}
    assert recipe.optimizer.learning_rate == 0.01
    assert recipe.schedule.options == {"epochs": [10, 20, 30], "factor": 0.2}
    assert recipe.loss.l2 == 5e-4
    assert recipe.data.mirror == "both"
    assert recipe.train.epochs == 40
    assert recipe.reference.top1_error is not None
    assert recipe.measured == {}


def test_options_of_optimization_are_recorded_whole():
    """As in the guide to recipes: groups, slow weights and an average, as TOML and back."""
    recipe = check_recipe(
        minimal(
            optimizer={
                "name": "lamb",
                "learning_rate": 0.008,
                "weight_decay": 0.02,
                "lookahead": {"steps": 5, "factor": 0.5},
                "groups": [{"variables": "/(gamma|beta)$", "learning_rate_factor": 64.0}],
            },
            schedule={"name": "triangular", "final_factor": 0.07},
            loss={"name": "binary_cross_entropy", "target_threshold": 0.2},
            train={"epochs": 16, "average_last": 5},
            data={"repeats": 3},
        )
    )
    assert recipe.optimizer.groups[0].learning_rate_factor == 64
    assert check_recipe(tomllib.loads(recipe.to_toml())) == recipe


def test_a_rate_of_zero_is_saved_as_it_was_written():
    settings = ["loss.label_smoothing=0", "train.ema=0"]
    lines = load_recipe("demo", settings).to_toml().splitlines()
    assert {"label_smoothing = 0", "ema = 0"} <= set(lines)


def test_two_procedures_of_resnet_strikes_back_differ_where_its_table_does():
    """Table 2 of arXiv:2110.00476, and A1 leaves its smoothed targets as they are."""
    a1, a3 = load_recipe("resnet50_a1"), load_recipe("resnet50_a3")
    changes = {change.partition(":")[0] for change in difference(a1, a3)}
    assert changes == {
        "model.drop_path_rate",
        "data.repeats",
        "augment",
        "loss.label_smoothing",
        "loss.target_threshold",
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "train.epochs",
        "train.sizes",
    }
    # learning rate, decay, epochs, repeats, smoothing, stochastic depth, pixels in training, top-1
    table = (
        (a1, (5e-3, 0.01, 600, 3, 0.1, 0.05, 224, 80.4)),
        (a3, (8e-3, 0.02, 100, 1, 0.0, 0.0, 160, 78.1)),
    )
    for recipe, values in table:
        optimizer, depth = recipe.optimizer, recipe.model.drop_path_rate
        assert values == (
            optimizer.learning_rate,
            optimizer.weight_decay,
            recipe.train.epochs,
            recipe.data.repeats,
            recipe.loss.label_smoothing,
            depth,
            recipe.size_of_epoch(0),
            recipe.reference.top1,
        )
        schedule = recipe.schedule
        assert (optimizer.name, schedule.name, schedule.warmup_epochs) == ("lamb", "cosine", 5)
        assert (schedule.warmup_learning_rate, schedule.final_learning_rate) == (1e-4, 1e-6)
        assert recipe.loss.name == "binary_cross_entropy"
    for recipe, magnitude, alpha in ((a1, 7, 0.2), (a3, 6, 0.1)):
        crop, policy, mix = recipe.augment
        assert (policy.magnitude, mix.mixup_alpha, mix.cutmix_alpha) == (magnitude, alpha, 1.0)
        assert (crop.interpolation, mix.per) == ("random", "batch")
        assert (recipe.data.batch_size, recipe.image_size) == (2048, 224)
        assert (recipe.view.resize, recipe.view.resize_filter) == (224 * 100 // 95, "bicubic")


def test_published_errors():
    errors = {n: (r.top1_error, r.top5_error) for n in PAPER for r in [load_recipe(n).reference]}
    assert errors == {
        "wrn36_5": (32.34, 12.64),
        "wrn36_2": (39.55, 16.57),
        "wrn28_10": (40.96, 18.87),
        "wrn28_2": (56.92, 30.92),
        "wrn20_10": (59.94, 35.10),
    }


def test_override_is_a_line_of_toml():
    recipe = load_recipe(
        "tiny20_resnet18",
        ["optimizer.learning_rate=0.05", "schedule.epochs = [1, 2]", 'schedule.name="step"'],
    )
    assert recipe.optimizer.learning_rate == 0.05
    assert recipe.optimizer.options["nesterov"] is True  # the rest of the table stays
    assert recipe.schedule.options["epochs"] == [1, 2]


def test_another_optimizer_drops_the_old_ones_options():
    recipe = load_recipe("tiny20_resnet18", ['optimizer.name="adamw"', "optimizer.beta_1=0.8"])
    assert recipe.optimizer.options == {"beta_1": 0.8}
    assert recipe.optimizer.learning_rate == load_recipe("tiny20_resnet18").optimizer.learning_rate
    same = load_recipe("tiny20_resnet18", ['optimizer={name="sgd", momentum=0.5}'])
    assert same.optimizer.options == {"momentum": 0.5, "nesterov": True}


def test_an_override_reaches_an_item_of_a_list():
    lines = ["augment.0.padding=2", 'augment.1={op="cutmix"}']
    demo = {"augment": [{"op": "pad_crop", "padding": 4, "fill": "reflect"}, {"op": "mixup"}]}
    content = minimal() | demo
    for line in lines:
        override(content, parse_override(line))
    assert content["augment"] == [demo["augment"][0], {"op": "cutmix"}]
    assert content["augment"][0] == {"op": "pad_crop", "padding": 2, "fill": "reflect"}


def test_another_layer_or_operation_of_a_step_drops_the_old_options():
    cutout = {"layer": "keras_cv.layers.RandomCutout", "height_factor": [0.25, 0.25]}
    content = minimal() | {"augment": [dict(cutout), {"op": "pad_crop", "padding": 4}]}
    override(content, parse_override("augment.0.height_factor=[0.5, 0.5]"))
    assert content["augment"][0] == cutout | {"height_factor": [0.5, 0.5]}
    for number in (0, 1):
        line = f'augment.{number}.layer="keras.layers.RandomBrightness"'
        override(content, parse_override(line))
        assert content["augment"][number] == {"layer": "keras.layers.RandomBrightness"}


def test_another_network_behind_a_band_drops_the_options_of_the_old_one():
    name = "spectral_wrn28_2_sub4"
    other = load_recipe(name, ['model.base.name="resnet34"'])
    assert other.model.base.name == "resnet34"
    wider = load_recipe(name, ["model.base.width=4"])
    assert wider.model.base.depth == load_recipe(name).model.base.depth


def test_a_warmup_as_long_as_the_run_is_refused_before_anything_is_done():
    with pytest.raises(UserError, match=r"schedule\.warmup_epochs must lie below the run's 3 ep"):
        load_recipe("resnet50_64", ["train.epochs=3"])


def test_a_penalty_of_nothing_has_no_variables():
    with pytest.raises(UserError, match=r'loss\.l2_of = "all" says of which variables loss\.l2 is'):
        load_recipe("resnet18_128", ["loss.l2=0.0"])


def test_results_on_other_images_are_left_out():
    assert load_recipe("wrn36_2").reference and load_recipe("demo").measured
    assert load_recipe("demo", ['data.dataset="shapes"', "train.epochs=2"]).measured
    assert not load_recipe("demo", ['data.dataset="tiny_imagenet"']).measured
    assert not load_recipe("wrn36_2", ["data.classes=20"]).reference


def test_overrides_are_a_list():
    with pytest.raises(UserError, match=r'pass \["train\.epochs=2"\]'):
        load_recipe("demo", "train.epochs=2")


def test_an_empty_table_is_no_list():
    with pytest.raises(UserError, match=r"augment must be a list"):
        load_recipe("demo", ["augment={}"])
    assert not load_recipe("demo", ["augment=[]"]).augment


@pytest.mark.parametrize(
    ("word", "keys"),
    [
        ("--lr", ["optimizer.learning_rate"]),
        ("batch-size", ["data.batch_size"]),
        ("epochs", ["train.epochs", "schedule.epochs"]),
        ("no_such_thing", []),
    ],
)
def test_what_a_word_may_mean(word, keys):
    assert settings_called(word) == keys
    for known in OTHER_WORDS.values():
        assert known in settings_called(known.partition(".")[2])


def test_a_tuple_of_python_is_a_list():
    model = {"name": "small_resnet", "blocks": (2, 2, 2, 2)}
    recipe = check_recipe(minimal() | {"model": model})
    assert check_recipe(recipe.model_dump(exclude_none=True)) == recipe
    assert "blocks = [" in recipe.to_toml()


def test_the_shorter_side_may_have_the_size_that_is_shown():
    """Nothing of a square image is cropped then."""
    data = {"dataset": "imagenet2012", "image_size": 64}
    recipe = check_recipe(minimal(data=data, evaluation={"resize": 64}))
    assert (recipe.view.resize, recipe.view.image_size) == (64, 64)
    with pytest.raises(UserError, match="must be at least the 64 pixels that are cropped"):
        check_recipe(minimal(data=data, evaluation={"resize": 63}))


def test_a_default_that_is_stated_is_no_difference():
    demo = load_recipe("demo")
    stated = load_recipe("demo", ["optimizer.ns_steps=5", "schedule.final_factor=0.0"])
    assert decisions(demo) != decisions(stated)
    assert difference(demo, stated) == []
    assert difference(demo, load_recipe("demo", ['augment.0={op="pad_crop",fill="reflect"}'])) == []


def test_other_initial_weights_are_no_difference_but_of_runs_that_have_not_begun(tmp_path):
    a, b = (load_recipe("demo", [f'train.initial_weights="{name}.keras"']) for name in "ab")
    absolute = load_recipe("demo", [f'train.initial_weights="{os.path.abspath("a.keras")}"'])
    assert difference(a, b) == other_weights(a, a) == other_weights(a, absolute) == []
    assert other_weights(a, b) == ["train.initial_weights: a.keras -> b.keras"]
    with pytest.raises(UserError, match=r"other \(train.initial_weights: a.keras -> b.keras\): no"):
        refuse_other_recipe(a, b, "other", "no", reads_weights=True)


def test_difference_names_what_changed():
    old, new = load_recipe("demo"), load_recipe("demo", ["train.epochs=1", "data.classes=3"])
    assert difference(old, new) == [
        "data.classes: None -> 3",
        f"train.epochs: {old.train.epochs} -> 1",
    ]
    assert difference(old, old) == []


def test_recipes_do_not_change_once_read():
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("demo").train.epochs = 3


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"data": {"batch_size": "128"}},
            'data.batch_size must be a whole number from 1 to 1,000,000,000; received "128"',
        ),
        ({"data": {"batch_size": 0}}, "a whole number from 1 to 1,000,000,000; received 0"),
        (
            {"data": {"bach_size": 1}},
            'data.bach_size is not a known key; did you mean "batch_size"',
        ),
        ({"trian": {}}, 'trian is not a known key; did you mean "train"'),
        ({"train": {"epochs": True}}, "1,000,000,000; received true"),
        (
            {"train": {"dtype": "float16"}},
            'train.dtype must be "float32" or "mixed_bfloat16"; received "float16"',
        ),
        ({"data": {"dataset": "tiny_imagenett"}}, 'did you mean "tiny_imagenet"'),
        ({"data": {"classes": 2000}}, "data.classes must be at most 1000"),
        ({"model": {"name": "wide_resnt"}}, 'did you mean "wide_resnet"'),
        ({"model": {"dept": 3}}, 'did you mean "depth"'),
        ({"augment": [{"op": "pad_crops"}]}, 'did you mean "pad_crop"'),
        ({"augment": [{"op": "mixup"}, {"op": "pad_crop"}]}, "must be the last step"),
        ({"augment": [{"op": "mixup"}], "data": {"batch_size": 1}}, "2 are needed; received 1"),
        ({"train": {"accumulate_steps": 3}}, "accumulate_steps must divide data.batch_size"),
        ({"train": {"early_stopping": 3}}, "set data.holdout"),
        ({"schedule": {"name": "plateau"}}, "set data.holdout"),
        (
            {"train": {"early_stopping": 3, "validate_every": 2}, "data": {"holdout": 16}},
            "look at the scores of each epoch: set train.validate_every to 1; received 2",
        ),
        (
            {"train": {"validate_every": 0}, "data": {"holdout": 16}},
            "train.validate_every = 0 leaves no scores by which the best epoch is chosen",
        ),
        ({"loss": {"l2": -1.0}}, "loss.l2 must be a number of at least 0; received -1.0"),
        (
            {"optimizer": {"learning_rate": "fast"}},
            'must be a number above 0 and at most 1e+30; received "fast"',
        ),
        (
            {"optimizer": {"learning_rate": float("inf")}},
            "optimizer.learning_rate must be a finite",
        ),
        ({"optimizer": {"momentun": 0.5}}, 'optimizer.momentun is not an option of "sgd"; did you'),
        (
            {"schedule": {"name": "cosin"}},
            'schedule.name "cosin" is not known; did you mean "cosine"',
        ),
        ({"schedule": {"name": 1}}, "schedule.name must be text in quotes; received 1"),
        ({"augment": [{"op": ["mixup"]}]}, "augment.0.op must be text in quotes; received ["),
        ({"model": {"base": {}}}, 'model.base is not an option of "wide_resnet"; known: depth'),
        ({"schedule": {"name": "step"}}, 'schedule "step" needs a value for epochs'),
        (
            {"augment": [{"op": "pad_crop"}, {}]},
            "augment.1 must be a table with either op or layer",
        ),
        (
            {"augment": [{"layer": "os.system"}]},
            "augment.0.layer must be the public name of a Keras",
        ),
        ({"augment": [{"op": "mixup", "alpha": 0}]}, "augment.0.alpha must be a number from 0.001"),
        ({"train": {"checkpoint_every": "daily"}}, '"epoch", or a time such as "10 min"'),
        ({"reference": {"top1_eror": 1.0}}, 'did you mean "top1_error"'),
        (
            {"model": {"normalization": "imagnet"}},
            'must be one of "imagenet", "mean_image", "dataset" or a table; received "imagnet"',
        ),
        ({"name": "../up"}, "name must"),
    ],
)
def test_each_mistake_gets_one_sentence(sections, message):
    with pytest.raises(UserError) as error:
        check_recipe(minimal(**sections))
    assert message in str(error.value)
    assert str(error.value).startswith("recipe ")
    assert "\n" not in str(error.value)


def test_missing_key_is_named():
    content = minimal()
    del content["data"]["dataset"]
    with pytest.raises(UserError, match=r"data\.dataset is missing"):
        check_recipe(content)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("demmo", [], 'did you mean "demo"'),
        ("./nowhere.toml", [], "is not a file"),
        ("demo", ["train.epochs=2\nmodel.depth=20"], "--set takes key=value"),
        ("demo", ["train.epochs"], "--set takes key=value"),
        ("demo", ["model.name=wide_resnet"], "--set takes key=value"),
    ],
)
def test_names_and_overrides_that_do_not_work(name, overrides, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name, overrides)


def test_a_file_that_is_not_toml(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes("[model]".encode("utf-16-le"))  # without a mark of that
    with pytest.raises(UserError, match=r"cannot be read as TOML: .*UTF-16.*save it as UTF-8"):
        load_recipe(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_file_that_an_editor_has_marked(encoding, tmp_path):
    text = load_recipe("demo").to_toml()
    (tmp_path / "demo.toml").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert load_recipe(tmp_path / "demo.toml") == load_recipe("demo")
