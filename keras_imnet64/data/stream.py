"""tf.data pipelines: they gather or decode images, augment them, and yield batches.

`TrainingStream` feeds `Model.fit` epoch after epoch, starting at any step of any epoch;
`evaluation_batches` yields every image of a selection once. Both feed TensorFlow and JAX alike.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.parts import WHOLE, Part
from keras_imnet64.core.types import Tensor
from keras_imnet64.data.augment.crops import IS_BICUBIC, mirror
from keras_imnet64.data.augment.draws import AugmentationStep, TensorDraws
from keras_imnet64.data.augment.mixing import draws_of_part, mixed_labels
from keras_imnet64.data.augment.shrink import shrink
from keras_imnet64.data.images.views import View
from keras_imnet64.data.order import Mirror, epoch_draws, epoch_order
from keras_imnet64.data.selection import Selection
from keras_imnet64.data.stores.decoding import (
    REGION,
    Show,
    as_run_failed,
    crop_resizer,
    decode,
    regions_of,
    viewer,
)
from keras_imnet64.data.stores.encoded import EncodedStore
from keras_imnet64.data.stores.opening import Store
from keras_imnet64.data.stores.raw import ALIGNMENT, RawStore, aligned_copy

PREFETCHED_BATCHES = 4
PARALLEL_READS = 4  # batches whose files are read at the same time
MAX_AUGMENTING_BYTES = 2**32  # of all batches that are augmented at the same time
AUGMENTING_FACTOR = 20  # memory of a batch in augmentation by its bytes: floats and copies
MapFunction: TypeAlias = Callable[..., Any]  # from and to any structure of tensors
ON_CPU = partial(tf.device, "CPU:0")


class Samples(NamedTuple):
    """Samples before their images are read: the B of a step, or all M of an epoch."""

    positions: Tensor  # int64 [B], of the images in the store
    labels: Tensor  # int32 [B]
    mirrored: Tensor  # bool [B]
    draws: tuple[TensorDraws, ...]  # {name: [B, ...]} for each step of the augmentation
    regions: Tensor  # int32 [B, REGION] to decode, see `decoding.regions`; () for a raw store


class Stage(NamedTuple):
    """The images of a step after one operation."""

    name: str
    images: Tensor  # uint8 [B, H, W, 3]


class TrainingStream:
    """Training batches as a function of (seed, epoch, step).

    Images of a raw store are gathered. Images of an encoded store are decoded one by one: if the
    augmentation begins with random_resized_crop, that crops the image at its full size; otherwise
    `view` shows the image, as in evaluation.

    Args:
        selection: N images.
        batch_size: images per step on all devices together; at most the samples of an epoch.
        view: for an encoded store; shows images where no crop reads them.
        seed: determines the order and the draws.
        mirror, repeats: see `order.epoch_order`.
        augmentation: applied in this order, after the mirror.
        steps_per_epoch: default, and maximum, all whole batches. The samples that are left over
            differ from epoch to epoch.
        mean_image: uint8 [S, S, 3], the pixels of fill "mean"; default black.
        image_size: S, the pixels per side that images have while they are augmented; default: those
            of the store or the view. Only an encoded store whose augmentation begins with
            random_resized_crop can have others.
        part: the rows of each batch that this stream reads and yields, b of the B; of a batch that
            mixes images also the partners of these rows are read. Order and draws are those of the
            whole batch.
        size_of_epoch: epoch -> pixels per side of its batches' images, at most S, the default.
            Order, draws and augmentation are those of S pixels; their result is shrunk
            (`augment.shrink`). But where a crop of an encoded store is the whole augmentation, the
            same region is resized straight to the smaller size.
    """

    def __init__(
        self,
        selection: Selection,
        *,
        batch_size: int,
        view: View | None = None,
        seed: int = 0,
        mirror: Mirror = "none",
        repeats: int = 1,
        augmentation: Sequence[AugmentationStep] = (),
        steps_per_epoch: int | None = None,
        mean_image: np.ndarray | None = None,
        image_size: int | None = None,
        size_of_epoch: Callable[[int], int] | None = None,
        part: Part = WHOLE,
    ) -> None:
        self.selection = selection
        self.batch_size = batch_size
        self.part = part
        self.seed = seed
        self.mirror, self.repeats = mirror, repeats
        self.augmentation = list(augmentation)
        self.view = view
        self.image_size = size = image_size or _image_size(selection, view)
        if size != _image_size(selection, view) and not self._crops_when_read:
            raise TypeError("only where a crop reads images may they have another size")
        self.mean_image = np.zeros((size, size, 3), "uint8") if mean_image is None else mean_image
        self.size_of_epoch = size_of_epoch or (lambda epoch: size)
        self.num_samples = len(selection) * (2 if mirror == "both" else 1)
        self.steps_per_epoch = steps_per_epoch or self.num_samples // batch_size
        self._start = (0, 0)  # (epoch, step) of the next iteration
        self._lock = threading.Lock()  # keeps two threads from drawing the same epoch
        self._epoch_samples = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def inexact_steps(self) -> list[AugmentationStep]:
        """Steps of the augmentation whose pixels differ each time: they draw their own numbers."""
        return [step for step in self.augmentation if not step.is_exact]

    def begin(self, epoch: int, step: int = 0) -> None:
        """Sets where the next iteration of the data set begins; epochs and steps count from 0."""
        self._start = (epoch, step)

    def dataset(self, image_size: int | None = None) -> tf.data.Dataset:
        """Returns a data set of (images uint8 [B, H, W, 3], labels); of a part, of its b rows.

        Args:
            image_size: pixels per side, since a data set has images of one size; default: those in
                augmentation. Only epochs of that size may be iterated.

        Labels are int32 [B]; or float32 [B, 3] if the last step of the augmentation mixes images:
        two labels and the share of the first, see `augment.mixing`.

        An iteration runs from the step that `begin` has set to the end of its epoch.
        """
        size = image_size or self.image_size
        steps = tf.data.Dataset.range(1).flat_map(lambda _: self._remaining_steps(size))
        if self._encoded_store is None:
            load = partial(self._load, size)
            batches = map_in_parallel(steps, load, self._num_read, self.image_size)
        else:
            read = partial(_read_samples, self._encoded_store)
            decode_sample = partial(self._decode_sample, size)
            steps = map_one_by_one(steps, read, decode_sample, self._num_read)
            finish = partial(self._finish, size)
            batches = map_in_parallel(steps, finish, self._num_read, self.image_size)
        batches = with_pipeline_options(batches.prefetch(PREFETCHED_BATCHES))
        # Keras reads the length of an epoch from the cardinality. If it were unknown, Keras would
        # request one batch too many, and give all epochs the length of a resumed one.
        batches.cardinality = lambda: tf.constant(self.steps_per_epoch, "int64")
        return batches

    def batch(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels of one step, computed eagerly, without tf.data.

        The batch is the same each time, and the one that `dataset` yields, unless the augmentation
        has `inexact_steps`. Neither `begin` nor an iteration of the data set is affected.

        Args:
            epoch: from 0; may lie beyond the epochs of the recipe.
            step: 0..steps_per_epoch - 1.

        Returns:
            (images, labels): uint8 [B, H, W, 3] in 0..255, RGB; labels int32 [B], or float32
            [B, 3] if the last step of the augmentation mixes images: a label, that of its
            partner, and the share of the first.

        Raises:
            UserError: the epoch or the step is no whole number, or there is no such step.
            ImageFailed: a file of an encoded store is gone, or has changed since it was indexed so
                that it cannot be decoded.
        """
        if not isinstance(epoch, Integral) or epoch < 0:
            raise UserError(f"epoch must be a whole number from 0; received {epoch!r}")
        if not isinstance(step, Integral):
            raise UserError(f"step must be a whole number; received {step!r}")
        samples = self._samples(epoch, step)
        with ON_CPU(), as_run_failed(self.selection.store):
            images, labels = self._load(self.size_of_epoch(epoch), samples)
        return images.numpy(), np.asarray(labels)

    def positions(self, epoch: int, step: int) -> np.ndarray:
        """Returns the positions in the store of all images of one step: int64 [B]."""
        return np.asarray(self._samples(epoch, step, WHOLE).positions)

    def stages(
        self, epoch: int, step: int, image_size: int | None = None
    ) -> tuple[list[Stage], np.ndarray]:
        """Returns the images of one step after each operation.

        Args:
            image_size: of the last stage; default: that of the epoch.

        Returns:
            (stages, labels int32 [B]), as arrays: the first stage holds the images as they are
            read, the last those that the model receives.

        Raises:
            UserError: there is no such step.
            ImageFailed: as for `batch`.
        """
        samples = self._samples(epoch, step)
        size = image_size or self.size_of_epoch(epoch)
        with ON_CPU(), as_run_failed(self.selection.store):
            stages = list(self._augment(size, self._read_images(size, samples), samples))
        arrays = [Stage(name, images.numpy()) for name, images in stages]
        return arrays, np.asarray(samples.labels)

    # ----------------------------------------------------------------------------------- one step

    def _load(self, size: int, samples: Samples) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images and labels of one step; works in a graph too."""
        return self._finish(size, self._read_images(size, samples), samples)

    def _finish(
        self, size: int, images: tf.Tensor, samples: Samples
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns augmented images and labels, from the images as they are read."""
        labels = samples.labels
        *_, (_, images) = self._augment(size, images, samples)
        if self._mixes:
            labels = mixed_labels(labels, samples.draws[-1])
        if self._reads_partners:
            num_own = self._num_read // 2
            return images[:num_own], labels[:num_own]
        return images, labels

    def _augment(self, size: int, images: tf.Tensor, samples: Samples) -> Iterator[Stage]:
        """Yields each stage, from the images as they are read to those that the model receives."""
        steps = list(zip(self.augmentation, samples.draws, strict=True))
        if self._crops_when_read:
            (first, _), *steps = steps
            yield Stage(first.op, images)
        else:
            is_mirrored = self.mirror != "none" and self._encoded_store is not None  # when decoded
            yield Stage("stored, mirrored" if is_mirrored else "stored", images)
        if self.mirror != "none" and self._encoded_store is None:
            images = mirror(images, samples.mirrored)
            yield Stage("mirror", images)
        for step, draws in steps:
            images = step.apply(images, draws, self.mean_image)
            yield Stage(step.op, images)
        if images.shape[1] != size:
            yield Stage(f"{size} px", shrink(images, size))

    # ------------------------------------------------------------------- images as they are read

    @property
    def _mixes(self) -> bool:
        return bool(self.augmentation) and self.augmentation[-1].mixes

    @property
    def _reads_partners(self) -> bool:
        """Whether the images with which those of the part are mixed are read beside them."""
        return self._mixes and self.part.count > 1

    @property
    def _num_read(self) -> int:
        """The number of images that are read for a step."""
        return self.batch_size // self.part.count * (2 if self._reads_partners else 1)

    @cached_property
    def _encoded_store(self) -> EncodedStore | None:
        """The store, or None if it is a raw store."""
        store = self.selection.store
        return store if isinstance(store, EncodedStore) else None

    @cached_property
    def _crops_when_read(self) -> bool:
        """Whether the first step of the augmentation crops images as they are decoded."""
        if self._encoded_store is None or not self.augmentation:
            return False
        return self.augmentation[0].op == "random_resized_crop"

    @cached_property
    def _stored(self) -> tf.Tensor:
        store = self.selection.store
        assert isinstance(store, RawStore)
        return image_tensor(store.images)

    def _read_images(self, size: int, samples: Samples) -> tf.Tensor:
        """Returns the images of one step as they are read: uint8 [B, H, W, 3].

        Args:
            size: pixels per side that the model takes in the step's epoch.
        """
        if self._encoded_store is None:
            return tf.gather(self._stored, samples.positions)
        contents = self._encoded_store.read(np.asarray(samples.positions))
        drawn = self._drawn_filter(samples)
        encoded = zip(contents, samples.regions, samples.mirrored, *drawn, strict=True)
        size = self._size_as_read(size)
        return tf.stack([self._decode(size, *image) for image in encoded])

    def _decode_sample(
        self, size: int, content: tf.Tensor, sample: Samples
    ) -> tuple[tf.Tensor, Samples]:
        """Returns (decoded image uint8 [H, W, 3], sample) of one sample; a graph."""
        size = self._size_as_read(size)
        drawn = self._drawn_filter(sample)
        return self._decode(size, content, sample.regions, sample.mirrored, *drawn), sample

    def _decode(
        self,
        size: int,
        content: tf.Tensor,
        region: tf.Tensor,
        mirrored: tf.Tensor,
        *drawn: tf.Tensor,
    ) -> tf.Tensor:
        return decode(content, region, mirrored, self._show(size), (size, size, 3), *drawn)

    def _drawn_filter(self, samples: Samples) -> tuple[Tensor, ...]:
        """Returns the draws that `_show` needs beside the region: those of a drawn filter."""
        if self._crops_when_read and IS_BICUBIC in samples.draws[0]:
            return (samples.draws[0][IS_BICUBIC],)
        return ()

    def _size_as_read(self, size: int) -> int:
        """Returns the size of decoded images: a crop that nothing follows has the final one."""
        is_all = self._crops_when_read and len(self.augmentation) == 1
        return size if is_all else self.image_size

    def _show(self, size: int) -> Show:
        """Returns the function with which `decode` resizes decoded pixels to uint8 [S, S, 3]."""
        if self._crops_when_read:
            return crop_resizer(size, self.augmentation[0].options["interpolation"])
        assert self.view is not None  # as `_image_size` has checked
        return viewer(self.view)

    # ---------------------------------------------------------------------- samples of an epoch

    def _remaining_steps(self, image_size: int) -> tf.data.Dataset:
        """Returns a data set of the samples of each step, from the step that `begin` has set.

        Args:
            image_size: of the images that become of them.
        """
        example = self._samples(self._start[0], 0)  # gives the structure, types and shapes
        arrays = tf.nest.flatten(example)

        def remaining() -> list[np.ndarray]:
            size = self.size_of_epoch(self._start[0])
            if size != image_size:
                raise ValueError(f"epoch {self._start[0]} has {size} px; received {image_size}")
            samples = self._samples_by_step(*self._start)
            return [array.copy() for array in tf.nest.flatten(samples)]  # TensorFlow may overwrite

        tensors = tf.numpy_function(remaining, [], [array.dtype for array in arrays])
        for tensor, array in zip(tensors, arrays, strict=True):
            tensor.set_shape((None, *array.shape))
        return tf.data.Dataset.from_tensor_slices(tf.nest.pack_sequence_as(example, tensors))

    def _samples(self, epoch: int, step: int, part: Part | None = None) -> Samples:
        """Returns the samples of one step, arrays [B, ...], or those read for a part of it."""
        if not 0 <= step < self.steps_per_epoch:
            raise UserError(f"step must be 0 to {self.steps_per_epoch - 1}; received {step}")
        by_step = self._samples_by_step(epoch, step, step + 1, part)
        return tf.nest.map_structure(lambda array: array[0], by_step)

    def _samples_by_step(
        self, epoch: int, first: int, end: int | None = None, part: Part | None = None
    ) -> Samples:
        """Returns the samples of steps from `first` to before `end`, arrays [S, B, ...].

        Args:
            part: what is read of each step; default: that of the stream.
        """
        with self._lock:
            arrays = self._epoch_samples(epoch)
        steps = slice(first * self.batch_size, (end or self.steps_per_epoch) * self.batch_size)

        def by_step(array: np.ndarray) -> np.ndarray:
            return array[steps].reshape(-1, self.batch_size, *array.shape[1:])

        return self._read_for(part or self.part, tf.nest.map_structure(by_step, arrays))

    def _read_for(self, part: Part, samples: Samples) -> Samples:
        """Returns what is read of whole batches [S, B, ...] for a part: its rows, and partners."""
        if part.count == 1:
            return samples
        rows = part.rows(self.batch_size)
        if not self._mixes:
            return tf.nest.map_structure(lambda array: array[:, rows], samples)
        partners, mixing = draws_of_part(samples.draws[-1], rows)

        def with_partners(array: np.ndarray) -> np.ndarray:
            steps = np.arange(len(array))[:, None]
            return np.concatenate([array[:, rows], array[steps, partners]], axis=1)

        read = tf.nest.map_structure(with_partners, samples._replace(draws=samples.draws[:-1]))
        return read._replace(draws=(*read.draws, mixing))

    def _draw_epoch(self, epoch: int) -> Samples:
        """Returns all samples of an epoch in its order, arrays [M, ...]."""
        num_images = len(self.selection)
        indices, mirrored = epoch_order(num_images, self.mirror, self.seed, epoch, self.repeats)
        positions, labels = self.selection.look_up(indices)
        num_samples, size, store = len(indices), self.image_size, self._encoded_store
        sizes = store.sizes(positions) if store is not None and self._crops_when_read else None
        draws = epoch_draws(self.augmentation, num_samples, size, self.seed, epoch, sizes)
        regions: np.ndarray | tuple[()] = ()
        if store is not None:
            crops = draws[0] if self._crops_when_read else None
            regions = regions_of(store, positions, crops)
        return Samples(positions, labels, mirrored, tuple(draws), regions)


def _read_samples(store: EncodedStore, samples: Samples) -> tuple[tf.Tensor, Samples]:
    """Returns (bytes of the images string [B], samples) of one step; a graph."""
    return read_files(store, samples.positions), samples


def _image_size(selection: Selection, view: View | None) -> int:
    if selection.image_size is not None:
        return selection.image_size
    if view is None:
        raise TypeError("images of an encoded store need a view")
    return view.image_size


# ------------------------------------------------------------------------------------- evaluation


def evaluation_batches(
    selection: Selection, batch_size: int, view: View | None = None, part: Part = WHOLE
) -> tf.data.Dataset:
    """Returns a data set of every image of a selection once, in order.

    Args:
        part: the rows of each batch to read.
        view: for an encoded store, and for ten crops; None shows the images of a raw store as
            they are stored.

    Returns:
        tf.data.Dataset of (images uint8 [B, H, W, 3], or [B, 10, H, W, 3] with ten crops, labels
        int32 [B], weights float32 [B]); the last batch is padded with rows of weight zero, so
        that any number of devices divides it.
    """
    indices = np.arange(-(-len(selection) // batch_size) * batch_size).reshape(-1, batch_size)
    indices = indices[:, part.rows(batch_size)]
    weights = (indices < len(selection)).astype("float32")
    positions, labels = selection.look_up(np.minimum(indices, len(selection) - 1))
    batches = tf.data.Dataset.from_tensor_slices((positions, labels, weights))
    store = selection.store
    if isinstance(store, RawStore) and (view is None or not view.ten_crop):
        stored = image_tensor(store.images)

        def load(positions: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tf.gather(stored, positions), *rest

        batches = map_in_parallel(batches, load, batch_size, store.image_size)
    else:
        assert view is not None  # images of an encoded store have no size without a view
        batches = _show_one_by_one(batches, store, view, indices.shape[1])
    return with_pipeline_options(batches.prefetch(PREFETCHED_BATCHES))


def _show_one_by_one(
    batches: tf.data.Dataset, store: Store, view: View, batch_size: int
) -> tf.data.Dataset:
    """Returns batches of (images as the view shows them, labels, weights).

    Args:
        batches: of (positions, labels, weights).
    """
    read: Callable[[tf.Tensor], tf.Tensor | tuple[tf.Tensor, ...]]
    show: Callable[[Any], tf.Tensor]  # Any: one element of what `read` returns
    if isinstance(store, EncodedStore):
        read, show = partial(_read_encoded, store), partial(_show_encoded, view)
    else:
        read, show = partial(tf.gather, image_tensor(store.images)), partial(_show_stored, view)
    return map_one_by_one(
        batches,
        lambda positions, *rest: (read(positions), *rest),
        lambda image, *rest: (show(image), *rest),
        batch_size,
    )


def _read_encoded(store: EncodedStore, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the bytes and the regions of whole images: string [B], int32 [B, REGION]."""
    regions = tf.numpy_function(partial(regions_of, store), [positions], tf.int32)
    return read_files(store, positions), tf.ensure_shape(regions, (None, REGION))


def _show_encoded(view: View, image: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    content, region = image
    return decode(content, region, False, viewer(view), view.shape)


def _show_stored(view: View, pixels: tf.Tensor) -> tf.Tensor:
    shown = tf.numpy_function(lambda p: view.show(Image.fromarray(p)), [pixels], tf.uint8)
    return tf.ensure_shape(shown, view.shape)


# ------------------------------------------------------------------------------- parts of pipelines


def read_files(store: EncodedStore, positions: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of a batch of images: string [B]."""
    contents = tf.numpy_function(store.read, [positions], tf.string)
    return tf.ensure_shape(contents, positions.shape)


def image_tensor(images: np.ndarray) -> tf.Tensor:
    """Returns stored images as a tensor [N, H, W, 3] on the CPU that shares their memory.

    A mapped file stays mapped: only the images that are read take memory.
    """
    if images.ctypes.data % ALIGNMENT or not images.flags.c_contiguous:
        images = aligned_copy(images)
    # NumPy does not export read-only memory, such as a mapped file, but TensorFlow only reads it.
    memory = (ctypes.c_uint8 * images.nbytes).from_address(images.ctypes.data)
    memory.keeps_alive = images  # type: ignore[attr-defined]  # ctypes arrays take any attribute
    shared = np.ctypeslib.as_array(memory).view(images.dtype).reshape(images.shape)
    with ON_CPU():
        return tf.experimental.dlpack.from_dlpack(shared.__dlpack__())


def map_one_by_one(
    batches: tf.data.Dataset, read: MapFunction, convert: MapFunction, batch_size: int
) -> tf.data.Dataset:
    """Returns the batches with their elements read together and converted one by one, in order.

    Args:
        read: takes a batch; returns a batch of what was read.
        convert: takes one element of what `read` returns.
    """
    converted = (
        batches.map(read, num_parallel_calls=PARALLEL_READS, deterministic=True)
        .unbatch()
        .map(convert, num_parallel_calls=os.cpu_count() or 1, deterministic=True)
    )
    return converted.batch(batch_size, drop_remainder=True)


def map_in_parallel(
    batches: tf.data.Dataset, function: MapFunction, batch_size: int, image_size: int
) -> tf.data.Dataset:
    """Maps several batches at a time, as many as cores and memory allow, and keeps their order."""
    batch_bytes = AUGMENTING_FACTOR * batch_size * image_size**2 * 3
    calls = max(1, min(os.cpu_count() or 1, MAX_AUGMENTING_BYTES // batch_bytes))
    return batches.map(function, num_parallel_calls=calls, deterministic=True)


def with_pipeline_options(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the data set with the options that all pipelines share.

    Sharding is off: each process of a distribution strategy reads whole batches. Rewriting of
    graphs is off, since it would copy the stored images into memory, and so is the tuning of
    parallel calls, which depends on it.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    return dataset.with_options(options)
