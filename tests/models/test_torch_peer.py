"""The PyTorch peer of `bench` computes the same network and the same training step as ours.

The tests that need torch, torchvision or timm are skipped where they are not installed.
"""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from foreign_weights import pytorch_arrays
from test_golden import lasagne

from keras_imnet64.convert import namings as foreign
from keras_imnet64.models import build_model
from keras_imnet64.recipe.loading import check_recipe, load_recipe

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "benchmarks" / "torch_peer.py"
ARGUMENTS = {
    "--batch-size": "4",
    "--dtype": "float32",
    "--mode": "eager",
    "--image-size": "16",
    "--num-classes": "10",
}
RESNET_18 = {"name": "resnet18", "stem": "small_pool"}
WRN = {"name": "wide_resnet", "depth": 8, "width": 1}
SGD = {"name": "sgd", "learning_rate": 0.05, "nesterov": True}
ADAMW = {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.1, "epsilon": 1e-12}


@pytest.fixture(scope="module")
def peers():
    """The module `torch_networks` beside `torch_peer`."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import torch_networks

        yield torch_networks


def recipe(model, optimizer=SGD, loss=None, **train):
    data = {"dataset": "imagenet_resized/16x16", "batch_size": 6}
    tables = {"model": model, "optimizer": optimizer, "data": data, "loss": loss or {}}
    return check_recipe({"name": "small", **tables, "train": {"epochs": 1, **train}})


# ------------------------------------------------------------------------------------ the network


CASES = {  # network, naming of its layers, pixels per side
    "wide_resnet": ({"name": "wide_resnet", "depth": 12, "width": 2}, lasagne, 64),
    "wide_resnet 16": (WRN, lasagne, 16),
    "wide_resnet stages": (WRN | {"depth": 10, "stages": 3}, lasagne, 24),
    "small_resnet": ({"name": "small_resnet"}, foreign.resnet, 64),
    "small_resnet other": (
        {"name": "small_resnet", "widths": [8, 8, 16], "blocks": [2, 1, 2], "stem_stride": 1},
        foreign.resnet,
        15,
    ),
    "tiny_cnn1": ({"name": "tiny_cnn1"}, lambda layer: layer, 64),
    "resnet18": (RESNET_18, foreign.resnet, 64),
    "resnet18 auto": ({"name": "resnet18"}, foreign.resnet, 16),
    "resnet18 small": ({"name": "resnet18", "stem": "small"}, foreign.resnet, 32),
    "resnet50": ({"name": "resnet50", "stem": "imagenet"}, foreign.resnet, 64),
    "davit_tiny": ({"name": "davit_tiny", "stem": "imagenet", "window": 7}, foreign.davit, 64),
    "davit_tiny auto": ({"name": "davit_tiny"}, foreign.davit, 64),
    "davit_tiny full": ({"name": "davit_tiny", "stem": "full_15x15"}, foreign.davit, 24),
}
NEEDS = {"resnet": "torchvision", "davit": "timm"}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_ours(peers, case):
    options, naming, image_size = CASES[case]
    import torch

    if package := NEEDS.get(case[:6].rstrip("1")):
        needs(peers, package)
    network = recipe(options).model
    ours = build_model(network.name, image_size=image_size, num_classes=10, **network.options)
    theirs = filled(peers, network, image_size, ours, naming)
    shape = (2, image_size, image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    with torch.inference_mode():
        logits = theirs.eval()(torch.from_numpy(images)).numpy()
    expected = keras.ops.convert_to_numpy(ours(images, training=False))
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()


def needs(peers, package):
    """Skips the test where torchvision, or timm, is not installed."""
    peers.torchvision_models() if package == "torchvision" else pytest.importorskip(package)


def filled(peers, network, image_size, ours, naming):
    """Returns the PyTorch network, normalisation included, with the weights of our model.

    Moving statistics are drawn anew, as those of a new model hide a missing normalisation.
    """
    import torch

    rng = np.random.default_rng(1)
    for variable in ours.non_trainable_variables:
        if variable.name.startswith("moving"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    network = peers.build_network(network, image_size, 10)
    arrays = {k: torch.tensor(a) for k, a in pytorch_arrays(ours, naming).items()}
    state = {k for k in network.state_dict() if not k.endswith("num_batches_tracked")}
    assert state == set(arrays)
    network.load_state_dict(arrays, strict=False)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return peers.Normalized(network, mean, std)


def test_counts_of_parameters_are_those_of_the_recipes(peers):
    import torch

    costs = json.loads((ROOT / "recipes" / "costs.json").read_text())
    compared = 0
    for name, row in costs.items():
        shipped = load_recipe(name)
        if shipped.model.module not in ("wide_resnet", "resnet", "davit") and name != "tiny_cnn1":
            continue
        with torch.device("meta"):
            network = peers.build_network(shipped.model, shipped.image_size, shipped.num_classes)
        assert sum(p.numel() for p in network.parameters()) == row["parameters"], name
        compared += 1
    assert compared > 15


# --------------------------------------------------------------------------------------- the step


STEPS = {
    "coupled L2": (SGD, {"l2": 0.01, "label_smoothing": 0.1}, {}),
    "L2 of all": (SGD | {"nesterov": False}, {"l2": 0.01, "l2_of": "all"}, {}),
    "decoupled decay": (SGD | {"weight_decay": 0.3}, {"l2": 0.01}, {}),
    "clipping": (SGD | {"clip_norm": 0.5}, {"l2": 0.1}, {}),
    "adamw": (ADAMW, {"label_smoothing": 0.1}, {}),
    "adamw, clipped": (ADAMW | {"clip_norm": 0.5}, {"l2": 0.01}, {}),
    "accumulation": (SGD, {"l2": 0.01}, {"accumulate_steps": 2}),
}


@pytest.mark.parametrize("case", STEPS)
def test_three_steps_are_ours(peers, case):
    """Weights after three steps from the same start, relative to how far they moved.

    A bias that normalisation takes away again has rounding for a gradient, and is not compared.
    """
    import torch
    import torch_peer

    from keras_imnet64.backend.devices import take_devices
    from keras_imnet64.training.build import compile_for_training, training_model

    optimizer, loss, train = STEPS[case]
    small = recipe(WRN, optimizer, loss, **train)
    ours = build_model("wide_resnet", image_size=16, num_classes=10, depth=8, width=1)
    settings = torch_peer.Settings(6, "float32", "eager", 16, 10)
    peer = torch_peer.Peer(small, settings)
    theirs = peer.network.network
    before = pytorch_arrays(ours, lasagne)
    theirs.load_state_dict({k: torch.tensor(a) for k, a in before.items()}, strict=False)
    trained = training_model(ours)
    compile_for_training(trained, small, 100, take_devices())
    images, labels = peer.images.numpy(), peer.labels.numpy().astype("int32")
    for _ in range(3):
        peer.step()
        for part in np.split(np.arange(6), small.train.accumulate_steps):
            trained.train_on_batch(images[part], labels[part])
    after = pytorch_arrays(ours, lasagne)
    compared = {k: p for k, p in theirs.named_parameters() if not k.endswith("conv_b.bias")}
    assert len(compared) == len(after) - 2 - 2 * 5  # two such biases, two statistics of five norms
    for name, parameter in compared.items():
        moved = np.abs(after[name] - before[name]).max()
        apart = np.abs(parameter.detach().numpy() - after[name]).max()
        assert moved > 1e-6, name
        assert apart <= 0.01 * moved, name


def test_averaged_weights_follow(peers):
    import torch_peer

    peer = torch_peer.Peer(
        recipe(WRN, ema=0.75), torch_peer.Settings(4, "float32", "eager", 16, 10)
    )
    before = [p.detach().clone() for p in peer.update.parameters]
    peer.step()
    for average, old, new in zip(peer.update.averages, before, peer.update.parameters, strict=True):
        assert np.allclose(average, 0.75 * old + 0.25 * new.detach(), atol=1e-6)


# ------------------------------------------------------------------------------------- the worker


def worker(recipe_name, lines="", prelude="", **changes):
    """Returns the finished process of a worker that was sent these lines."""
    arguments = ARGUMENTS | {f"--{k.replace('_', '-')}": v for k, v in changes.items()}
    flat = [word for pair in arguments.items() for word in pair]
    argv = [str(WORKER), "--recipe", str(recipe_name), *flat]
    code = f"import runpy, sys; sys.path.insert(0, {str(WORKER.parent)!r}); sys.argv = {argv!r}\n"
    code += f"{prelude}\nrunpy.run_path({str(WORKER)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("mode", ["eager", "tuned"])
def test_worker_answers_each_line(peers, tmp_path, mode):
    file = tmp_path / "small.toml"
    file.write_text(recipe(WRN).to_toml())
    lines = "step 2\nforward 1\nsteps\nmemory\nquit\nstep 1\n"
    not_compiled = "import torch; torch.compile = lambda module, **_: module"  # takes a minute
    # This batch needs more than the small one before it.
    done = worker(file, lines, not_compiled, mode=mode, batch_size="256")
    assert done.returncode == 0, done.stderr
    first, step, forward, mistake, memory = map(json.loads, done.stdout.splitlines())
    assert first["name"].endswith(f" {mode}") and first["name"].startswith("torch 2")
    assert first["parameters"] == sum(p.numel() for p in network_of(peers, WRN).parameters())
    assert step["seconds"] > 0 and forward["seconds"] > 0
    assert "received 'steps'" in mistake["error"]
    assert memory["peak_mb"] is None or memory["peak_mb"] > 0


def network_of(peers, options):
    return peers.build_network(recipe(options).model, 16, 10)


@pytest.mark.parametrize(
    ("model", "optimizer", "sentence"),
    [
        ({"name": "vgg16"}, SGD, 'has no network "vgg16"; it has wide_resnet'),
        ({"name": "tiny_cnn2"}, SGD, 'has no network "tiny_cnn2"'),
        (WRN | {"whitening": {}}, SGD, "wide_resnet without model.whitening"),
        ({"name": "small_resnet", "drop_path_rate": 0.1}, SGD, "without model.drop_path_rate"),
        (WRN, {"name": "muon", "learning_rate": 0.01}, 'received optimizer "muon"'),
        (RESNET_18 | {"anti_aliasing": True}, SGD, "no model.anti_aliasing; received True"),
        (RESNET_18 | {"drop_path_rate": 0.1}, SGD, "no model.drop_path_rate; received 0.1"),
        (WRN | {"depth": 9}, SGD, "depth 9 does not fit 16 pixels"),
    ],
)
def test_what_the_peer_cannot_do_is_refused(peers, tmp_path, model, optimizer, sentence):
    import torch_peer

    with pytest.raises(
        torch_peer.UserError, match=sentence.replace("(", r"\(").replace("+", r"\+")
    ):
        torch_peer.Peer(
            recipe(model, optimizer), torch_peer.Settings(2, "float32", "eager", 16, 10)
        )


@pytest.mark.parametrize(
    ("optimizer", "loss", "sentence"),
    [
        (SGD, {"name": "binary_cross_entropy"}, 'received loss.name "binary_cross_entropy"'),
        (SGD | {"lookahead": {}}, {}, "has no optimizer.lookahead"),
        (ADAMW | {"groups": [{"variables": "logits"}]}, {}, "has no optimizer.groups"),
        ({"name": "lamb", "learning_rate": 0.01}, {}, 'received optimizer "lamb"'),
    ],
)
def test_a_step_that_it_would_make_in_another_way_is_refused(
    monkeypatch, optimizer, loss, sentence
):
    """Also where torch is not installed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import torch_peer

    settings = torch_peer.Settings(2, "float32", "eager", 16, 10)
    with pytest.raises(torch_peer.UserError, match=sentence):
        torch_peer.Peer(recipe(WRN, optimizer, loss), settings)


@pytest.mark.parametrize(
    ("changes", "prelude", "sentence"),
    [
        ({}, "sys.modules['torch'] = None", "needs torch, which is not installed"),
        ({"batch_size": "0"}, "", "0 is not in the range"),
        ({"dtype": "float16"}, "", "'float16' is not one of"),
        ({"recipe": "wrn99"}, "", 'recipe "wrn99" is not known'),
    ],
)
def test_a_mistake_is_one_sentence(changes, prelude, sentence):
    done = worker(changes.pop("recipe", "wrn36_2"), prelude=prelude, **changes)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert sentence in done.stderr
