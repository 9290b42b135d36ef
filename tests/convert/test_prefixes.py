"""A network is found in a file behind one prefix, which is removed; two are never guessed from."""

import numpy as np
import pytest

from keras_imnet64.convert.namings import NAMINGS, choose_naming, landmarks_of
from keras_imnet64.convert.prefixes import Landmarks, find_network
from keras_imnet64.core.errors import UserError

NAMES = ("conv1.weight", "layer1.0.conv1.weight", "fc.weight")
LANDMARKS = Landmarks("conv1.weight", ["fc.weight"])


def tensors(*prefixes):
    return {prefix + name: np.ones(1) for prefix in prefixes for name in NAMES}


def find(states, prefix=None):
    return find_network(states, LANDMARKS, prefix, "w.pth")


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "net.", "backbone.", "encoder.", "timm_model.", "model.module.net."],
)
@pytest.mark.parametrize("where", ["", "state_dict"])
def test_a_prefix_is_removed(prefix, where):
    found = find({where: tensors(prefix)})
    assert set(found.tensors) == set(NAMES)
    assert found.prefix == (f"{where}.{prefix}" if where else prefix)
    assert (found.other_prefixes, found.left_out) == ([], [])


def test_tensors_beside_the_network_are_left_out_by_name():
    """Class weights of a loss and a second head, then a loss in a network without prefix."""
    beside = dict.fromkeys(("criterion.weight", "decoder.conv1.weight"), np.ones(1))
    found = find({"state_dict": tensors("model.") | beside, "other": {"x": np.ones(1)}})
    assert set(found.tensors) == set(NAMES)
    assert found.left_out == ["state_dict.criterion.weight", "state_dict.decoder.conv1.weight"]
    found = find({"": tensors("") | {"criterion.weight": 1, "loss_fn.a": 1, "train_metrics.b": 1}})
    assert set(found.tensors) == set(NAMES)
    assert found.left_out == ["criterion.weight", "loss_fn.a", "train_metrics.b"]


def test_a_network_with_its_classifier_elsewhere_is_refused():
    """Programs that train a new classifier on a frozen network write such files."""
    body = {f"backbone.{name}": 1 for name in NAMES[:2]}
    with pytest.raises(UserError, match=r'under "backbone\." without a classifier backbone\.fc'):
        find({"": body | {"fc.weight": 1}})


def test_a_network_without_its_first_layer_is_found_by_its_classifier():
    found = find(
        {"": {"layer1.0.conv1.weight": 1, "layer1.0.bn1.weight": 1, "fc.weight": 1, "a": 1}}
    )
    assert found.prefix == ""


def test_tensors_within_the_network_are_kept():
    found = find({"": tensors("") | {"fc2.weight": 1, "glossy.weight": 1}})
    assert {"fc2.weight", "glossy.weight"} < set(found.tensors)


@pytest.mark.parametrize(
    ("states", "averaged", "other"),
    [
        (
            {"state_dict": tensors(""), "state_dict_ema": tensors("")},
            "state_dict_ema.",
            "state_dict.",
        ),
        (
            {"model": tensors(""), "model_ema": tensors("module.") | {"n_averaged": 1}},
            "model_ema.module.",
            "model.",
        ),
        (
            {"state_dict": tensors("model.", "ema_model.module.")},
            "state_dict.ema_model.module.",
            "state_dict.model.",
        ),
        ({"": tensors("", "ema.")}, "ema.", ""),
    ],
)
def test_the_averaged_network_is_the_default_of_two(states, averaged, other):
    for prefix, is_averaged in ((None, True), (averaged, True), (other, False)):
        found = find(states, prefix)
        assert found.prefix == (averaged if is_averaged else other)
        assert found.other_prefixes == [other if is_averaged else averaged]
        assert found.is_averaged == is_averaged
        assert set(found.tensors) == set(NAMES)
        assert found.left_out == []


@pytest.mark.parametrize("name", ["model_gemat.", "swallow.", "cinema.model.", "schema."])
def test_letters_within_a_word_do_not_mark_an_average(name):
    assert not find({"": tensors(name)}).is_averaged


@pytest.mark.parametrize(
    "states",
    [
        {"": tensors("encoder_q.", "encoder_k.")},
        {"student": tensors("module."), "teacher": tensors("module.")},
        {"model": tensors(""), "ema_1": tensors(""), "ema_2": tensors("")},
        {"ema_1": tensors(""), "model_ema": tensors("")},
    ],
)
def test_several_networks_need_a_prefix(states):
    with pytest.raises(UserError, match=r"holds \d networks, under .*; choose with --prefix"):
        find(states)


@pytest.mark.parametrize(
    ("prefix", "taken"),
    [
        ("state_dict.encoder_q.", "state_dict.encoder_q."),
        ("encoder_q.", "state_dict.encoder_q."),
        ("encoder_k", "state_dict.encoder_k."),
        ("encoder_k._orig_mod", "state_dict.encoder_k."),
    ],
)
def test_a_prefix_chooses_the_network(prefix, taken):
    states = {"state_dict": tensors("encoder_q.", "encoder_k.") | {"queue": np.ones(1)}}
    found = find(states, prefix)
    assert (found.prefix, found.left_out) == (taken, ["state_dict.queue"])


@pytest.mark.parametrize("prefix", ["", ".", "_q", "coder_q.", "encoder_q.fc.weight", "state_dict"])
def test_an_unknown_prefix_is_refused_with_the_known_ones(prefix):
    states = {"state_dict": tensors("encoder_q.", "encoder_k.")}
    sentence = 'holds no networks under ".*--prefix may be "state_dict.encoder_q.", "state'
    with pytest.raises(UserError, match=sentence):
        find(states, prefix)


def test_a_prefix_of_two_networks_is_refused():
    states = {"a": tensors("net."), "b": tensors("net.")}
    with pytest.raises(UserError, match=r'holds 2 networks under "net\.".*"a\.net\.", "b'):
        find(states, "net.")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["encoder.conv1.weight", "head.weight"], 'under "encoder." without.*encoder.fc.weight'),
        (
            ["resnet.embedder.weight"],
            "no classifier fc.weight .* it has resnet.embedder.weight; name",
        ),
        (["xfc.weight", "xconv1.weight"], "no classifier fc.weight"),
    ],
)
def test_a_file_without_the_network_is_refused_with_what_it_has(names, sentence):
    with pytest.raises(UserError, match=sentence):
        find({"": dict.fromkeys(names, np.ones(1))})


def test_a_hundred_thousand_names_take_little_time():
    """Not each compared with each."""
    states = {"": tensors("model.") | {f"{i}.{'x.' * 50}fc.weight": 1 for i in range(100_000)}}
    assert len(find(states).left_out) == 100_000


@pytest.mark.parametrize("name", NAMINGS)
def test_every_network_is_found_in_each_naming(name):
    marks = landmarks_of(name)
    for naming, classifier in zip(NAMINGS[name], marks.classifier_kernels, strict=True):
        names = (f"model.{marks.first_kernel}", f"model.{classifier}", "model_x.y")
        found = find_network({"": dict.fromkeys(names)}, marks, None, "w.pth")
        assert (found.prefix, found.left_out) == ("model.", ["model_x.y"])
        assert choose_naming(name, found.tensors) is naming


@pytest.mark.parametrize(
    ("name", "first", "classifiers"),
    [
        ("resnet50", "conv1.weight", ["fc.weight"]),
        ("davit_tiny", "stem.conv.weight", ["head.fc.weight"]),
        ("alexnet", "features.0.weight", ["classifier.6.weight"]),
        ("vgg16_bn", "features.0.weight", ["classifier.6.weight", "head.fc.weight"]),
    ],
)
def test_networks_are_recognised_by_their_first_and_last_layer(name, first, classifiers):
    assert landmarks_of(name) == Landmarks(first, classifiers)
