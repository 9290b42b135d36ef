"""Shows the images of a run to its network once, and keeps what a page says of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np

from keras_imnet64.backend.devices import Devices
from keras_imnet64.core.activity import Activity
from keras_imnet64.core.errors import UserError, shortened
from keras_imnet64.data.images.views import View
from keras_imnet64.data.selection import Selection, select, split_holdout
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.evaluation.evaluate import (
    as_viewed,
    check_model_fits,
    choose_view,
    select_known_classes,
)
from keras_imnet64.evaluation.forward import keras_forward
from keras_imnet64.evaluation.prediction_files import check_alike_images, check_predicted_images
from keras_imnet64.evaluation.top_predictions import (
    TopPredictions,
    collected,
    logits_of,
    top_of,
)
from keras_imnet64.models.contract import check_stated_classes, classifier_shape
from keras_imnet64.models.load import load_model
from keras_imnet64.models.macs import count_parameters, known_macs
from keras_imnet64.report.calibration import cross_entropy, fit_temperature, largest_share
from keras_imnet64.report.network_views import first_filters, grad_cam
from keras_imnet64.report.pictures import (
    MAX_SIDE,
    caption,
    least_sure,
    pixels_of,
    png_of,
    surest,
    surest_mistakes,
    suspected_labels,
    with_heat,
)
from keras_imnet64.report.subjects import Subject

MAX_NAME = 80  # characters of a class's name on a page, which shows it hundreds of times
MAX_FITTED = 5000  # images on which a temperature is fitted: one number needs no more
MAX_FITTED_BYTES = 2**26  # of their logits


@dataclass(frozen=True)
class Shown:
    """Images that a page shows, with the lines below each."""

    pngs: tuple[bytes, ...]
    captions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Temperature:
    """What the logits are divided by so that probabilities are those of being right.

    Attributes:
        value: fitted on `count` held-out images, at most `MAX_FITTED`.
        loss_before, loss_after: cross-entropy of these images, in nats.
    """

    value: float
    count: int
    loss_before: float
    loss_after: float


@dataclass(frozen=True)
class NetworkFacts:
    """A network, and the images that it was trained on.

    Attributes:
        num_train: training images, without those held out.
        num_held_out: images of train held out of training.
        macs: None for layers whose multiply-accumulates are not known.
        filters: of the first layer, floats [F, h, w, 3].
        attention: images and their Grad-CAM, beside each other.
    """

    num_train: int
    num_held_out: int
    parameters: int
    macs: int | None
    filters: np.ndarray | None
    attention: Shown | None


@dataclass(frozen=True)
class Examination:
    """What a network does with N images of K classes; of predictions from a file, less is known.

    Attributes:
        wnids, class_names: the classes, K of each.
        top: the predictions.
        network: None for predictions from a file.
        temperature: None without held-out images.
        tempered: the probability of the predicted class at that temperature, floats [N].
        mistakes, unsure, suspects: pictures of these lists, see `pictures`.
        num_suspects: images whose label may be wrong.
    """

    wnids: tuple[str, ...]
    class_names: tuple[str, ...]
    top: TopPredictions
    mistakes: Shown
    unsure: Shown
    suspects: Shown
    num_suspects: int
    network: NetworkFacts | None = None
    temperature: Temperature | None = None
    tempered: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        return len(self.wnids)


def examine(
    subject: Subject, validation: Store, train: Store, devices: Devices, num_pictures: int
) -> Examination:
    """Returns what a run's model does with its validation images.

    Args:
        validation, train: the images of the run, see `check_same_images`.
        num_pictures: the maximum in each list.

    Raises:
        UserError: the images do not fit the model.
        RunFailed: the logits are not finite, or an image cannot be read.
    """
    path, info = subject.run.model, subject.info
    images = select_known_classes(info, validation, path)
    training, held_out = images_of_training(subject, train)
    with devices.scope():
        model = load_model(path)
        shape = classifier_shape(model, path)
        check_stated_classes(info, shape.num_classes, path)
        view = choose_view(info, validation, shape.height, None, path)
        check_model_fits(model, images, path, view)
        network, batch_size = as_viewed(model, devices, view)
        forward = keras_forward(network)
        logits = partial(logits_of, forward, batch_size=batch_size, view=view, name=path)
        temperature = None
        if held_out is not None:
            count = min(MAX_FITTED, MAX_FITTED_BYTES // (4 * shape.num_classes))
            temperature = temperature_of(logits(held_out.evenly_spaced(count)))
        top, tempered = predictions_at(temperature, images, logits(images))
        album = Album(images, top, view and view.one_crop)
        half = num_pictures // 2
        explained = np.concatenate([surest(top, half), surest_mistakes(top, half)])
        network_facts = NetworkFacts(
            num_train=len(training),
            num_held_out=len(held_out or ()),
            parameters=count_parameters(model),
            macs=known_macs(model, images.image_size or info.image_size),
            filters=first_filters(model),
            attention=album.attend(model, explained),
        )
    return replace(
        album.examination(num_pictures),
        network=network_facts,
        temperature=temperature,
        tempered=tempered,
    )


def examine_predictions(
    subject: Subject, classes: Mapping[str, str], split: Store | None, num_pictures: int
) -> Examination:
    """Returns what a file of predictions holds.

    Args:
        classes: names by class id, in the order of the page; the file may name a part of them.
        split: its images, None where they are not on this machine.

    Raises:
        UserError: the predictions are of other images.
    """
    assert subject.predictions is not None
    wnids, class_names = list(classes), list(classes.values())
    top = subject.predictions.in_order(wnids, subject.label)
    if split is None:
        none = Shown((), ())
        count = len(suspected_labels(top, len(wnids)))
        return Examination(tuple(wnids), short_names(class_names), top, none, none, none, count)
    images = select(split, wnids)
    check_predicted_images(subject.label, top, images)
    view = None
    if images.image_size is None:
        view = View.of(subject.info, MAX_SIDE)
    return Album(images, top, view).examination(num_pictures)


def check_alike(subjects: Sequence[Subject], classes: Mapping[str, str]) -> None:
    """Refuses files of predictions that are not for the same images, where these are not here."""
    tops = [
        (subject.label, subject.predictions.in_order(list(classes), subject.label))
        for subject in subjects
        if subject.predictions is not None
    ]
    for label, top in tops[1:]:
        check_alike_images(*tops[0], label, top)


def check_same_images(subject: Subject, validation: Store, train: Store) -> None:
    """Refuses images that are not those that the run, or each branch, was trained and scored on."""
    environments = [branch.read_environment() for branch in subject.branches]
    if subject.environment is not None:
        environments.append(subject.environment)
    for digests in (environment.digest for environment in environments):
        for store, digest in ((train, digests.train), (validation, digests.validation)):
            if store.digest != digest:
                raise UserError(
                    f"the {store.split} images of {store.dataset} are not those of "
                    f"{subject.label} (their digests begin with {store.digest[:8]} and "
                    f"{digest[:8]}): name the folder of its data with --data-dir"
                )


def images_of_training(subject: Subject, train: Store) -> tuple[Selection, Selection | None]:
    """Returns the images that a run was trained on, and those that it held out, if any."""
    chosen = select_known_classes(subject.info, train, subject.run.model)
    if subject.recipe is None or not subject.recipe.data.holdout:
        return chosen, None
    return split_holdout(chosen, subject.recipe.data.holdout)


def temperature_of(held_out: Iterable[tuple[np.ndarray, np.ndarray]]) -> Temperature:
    """Fits a temperature on (logits [B, K], labels [B]) of images held out of training."""
    logits, labels = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
    with Activity("fitting the temperature"):
        value = fit_temperature(logits, labels)
    return Temperature(
        value, len(labels), cross_entropy(logits, labels), cross_entropy(logits / value, labels)
    )


def predictions_at(
    temperature: Temperature | None,
    images: Selection,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[TopPredictions, np.ndarray | None]:
    """Returns the predictions, and the probability of the first class at a temperature."""
    parts, tempered = [], []
    for logits, labels in batches:
        parts.append(top_of(logits, labels))
        if temperature is not None:
            tempered.append(largest_share(logits, temperature.value))
    return collected(images, parts), np.concatenate(tempered) if tempered else None


def short_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of classes as a page shows them."""
    return tuple(shortened(name, MAX_NAME) for name in names)


@dataclass(frozen=True)
class Album:
    """Makes pictures of images with their predictions.

    Attributes:
        view: how the images are shown, one crop of each.
    """

    images: Selection
    top: TopPredictions
    view: View | None

    def show(self, numbers: np.ndarray) -> Shown:
        """Returns some images, by their numbers in the selection."""
        if not len(numbers):
            return Shown((), ())
        pixels = pixels_of(self.images, numbers, self.view)
        return Shown(tuple(map(png_of, pixels)), self._captions(numbers))

    def attend(self, model: keras.Model, numbers: np.ndarray) -> Shown | None:
        """Returns some images beside their Grad-CAM; None where a network has none."""
        pixels = pixels_of(self.images, numbers, self.view)
        heat = grad_cam(model, pixels, self.top.first_class[numbers])
        if heat is None:
            return None
        pairs = [
            np.concatenate([image, with_heat(image, each)], axis=1)
            for image, each in zip(pixels, heat, strict=True)
        ]
        return Shown(tuple(map(png_of, pairs)), self._captions(numbers))

    def examination(self, num_pictures: int) -> Examination:
        """Returns the predictions with the images that a page shows of them."""
        suspects = suspected_labels(self.top, self.images.num_classes)
        return Examination(
            wnids=tuple(self.images.wnids),
            class_names=short_names(self.images.class_names),
            top=self.top,
            mistakes=self.show(surest_mistakes(self.top, num_pictures)),
            unsure=self.show(least_sure(self.top, num_pictures)),
            suspects=self.show(suspects[:num_pictures]),
            num_suspects=len(suspects),
        )

    def _captions(self, numbers: np.ndarray) -> tuple[tuple[str, ...], ...]:
        names = short_names(self.images.class_names)
        return tuple(caption(self.top, number, names, self.images.store) for number in numbers)
