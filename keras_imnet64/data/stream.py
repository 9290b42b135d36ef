"""tf.data pipelines: the order and draws of an epoch -> gather or decode -> augment -> batches.

`TrainingStream` feeds `Model.fit` epoch after epoch, from any step of any epoch;
`evaluation_batches` yields every image of a selection once. Both feed TensorFlow and JAX alike.
"""

import ctypes
import os
import threading
from functools import cached_property, lru_cache, partial

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_imnet64.data.augment.crops import mirror
from keras_imnet64.data.augment.mixing import mixed_labels
from keras_imnet64.data.order import epoch_draws, epoch_order
from keras_imnet64.data.stores.decoding import REGION, crop_resizer, decode, regions_of, viewer
from keras_imnet64.data.stores.store import ALIGNED, aligned_copy

PREFETCH = 4  # batches
READERS = 4  # batches whose files are read at a time
MOST_BYTES = 2**32  # of batches that are being augmented
WHILE_AUGMENTING = 20  # times its bytes are held for a batch, as floating-point numbers and copies
ON_CPU = partial(tf.device, "CPU:0")


class TrainingStream:
    """Training batches as a function of (seed, epoch, step).

    Images of a raw store are gathered. Those of an encoded store are read and decoded one by one:
    a first step random_resized_crop is taken of the image as it lies there, in its full size;
    without one they are shown as in evaluation.

    Args:
        selection: a `Selection` of N images.
        view: a `views.View` for an encoded store; its image_size is that of the batches.
        batch_size: images per step, over all devices.
        seed: of the data's order and draws.
        mirror: "none", "random", "alternating" or "both", see `order.epoch_order`.
        augmentation: list of `augment.Step` or `layers.LayerStep`, applied in this order after the
            mirror.
        steps_per_epoch: stop an epoch there; default all whole batches. The samples of a last part
            batch are left out, other ones each epoch.
        mean_image: uint8 [H, W, 3], what fill "mean" fills with.
    """

    def __init__(
        self,
        selection,
        *,
        batch_size,
        view=None,
        seed=0,
        mirror="none",
        augmentation=(),
        steps_per_epoch=None,
        mean_image=None,
    ):
        self.selection = selection
        self.batch_size = batch_size
        self.seed = seed
        self.mirror = mirror
        self.augmentation = list(augmentation)
        self.view = view
        self.image_size = size = selection.image_size or view.image_size
        self.mean_image = np.zeros((size, size, 3), "uint8") if mean_image is None else mean_image
        self.num_samples = len(selection) * (2 if mirror == "both" else 1)
        self.steps_per_epoch = steps_per_epoch or self.num_samples // batch_size
        self._begin = (0, 0)
        self._lock = threading.Lock()
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    @property
    def inexact_steps(self):
        """Steps of the augmentation whose draws are not ours."""
        return [step for step in self.augmentation if not step.is_exact]

    def begin(self, epoch, step=0):
        """Say which epoch the next iteration of the data set runs through, and from which step."""
        self._begin = (epoch, step)

    def dataset(self):
        """tf.data.Dataset of (images uint8 [B, H, W, 3], labels).

        Labels are int32 [B], or float32 [B, 3] where the last step mixes images: two labels and the
        share of the first, see `augment.mixing`.

        An iteration runs from where `begin` said to the end of that epoch.
        """
        steps = tf.data.Dataset.range(1).flat_map(lambda _: self._remaining_steps())
        if self._is_encoded:
            reading = steps.map(self._read, num_parallel_calls=READERS, deterministic=True)
            pictures = reading.unbatch().map(
                self._decoded, num_parallel_calls=os.cpu_count() or 1, deterministic=True
            )
            steps = pictures.batch(self.batch_size, drop_remainder=True)
        finish = self._finish if self._is_encoded else self._load
        batches = in_parallel(steps, finish, self.batch_size, self.image_size)
        batches = with_our_options(batches.prefetch(PREFETCH))
        # Keras takes an epoch's length from the cardinality. Left unknown it would find the end by
        # asking for one batch too many, and take a resumed epoch's steps for the length of all.
        batches.cardinality = lambda: tf.constant(self.steps_per_epoch, "int64")
        return batches

    def batch(self, epoch, step):
        """(images, labels) of one step as NumPy arrays, without tf.data."""
        with ON_CPU():
            images, labels = self._load(*self._step(epoch, step))
        return images.numpy(), np.asarray(labels)

    def positions(self, epoch, step):
        """Which images of the store form a step: integers [B]."""
        return self._step(epoch, step)[0]

    def stages(self, epoch, step):
        """What becomes of the images of one step, operation by operation.

        Returns:
            ([(name, uint8 [B, H, W, 3]), ...], labels int32 [B]): what is read first; the last is
            what the model is fed.
        """
        positions, labels, mirrored, draws, regions = self._step(epoch, step)
        with ON_CPU():
            pictures = self._images(positions, regions, mirrored)
            stages = list(self._stages(pictures, mirrored, draws))
        return [(name, images.numpy()) for name, images in stages], labels

    def _remaining_steps(self):
        """A data set of what is drawn for each step, from where the iteration begins."""
        like = self._step(self._begin[0], 0)
        flat = tf.numpy_function(  # copies, for TensorFlow computes in place on what it is given
            lambda: [array.copy() for array in tf.nest.flatten(self._steps(*self._begin))],
            [],
            [array.dtype for array in tf.nest.flatten(like)],
        )
        for tensor, array in zip(flat, tf.nest.flatten(like), strict=True):
            tensor.set_shape((None, *array.shape))
        return tf.data.Dataset.from_tensor_slices(tf.nest.pack_sequence_as(like, flat))

    def _load(self, positions, labels, mirrored, draws, regions):
        """Images and labels of one step; a graph."""
        return self._finish(self._images(positions, regions, mirrored), labels, mirrored, draws)

    def _finish(self, images, labels, mirrored, draws):
        """Images and labels of one step, from its images as they are read."""
        *_, (_, images) = self._stages(images, mirrored, draws)
        if self.augmentation and self.augmentation[-1].mixes:
            labels = mixed_labels(labels, draws[-1])
        return images, labels

    def _stages(self, images, mirrored, draws):
        """(name, images) from the images as they are read to those that the model is fed."""
        steps = list(zip(self.augmentation, draws, strict=True))
        if self._crops_when_read:
            (first, _), *steps = steps
        yield first.op if self._crops_when_read else "stored", images
        if self.mirror != "none" and not self._is_encoded:  # which is mirrored when it is read
            images = mirror(images, mirrored)
            yield "mirror", images
        for step, drawn in steps:
            images = step.apply(images, drawn, self.mean_image)
            yield step.op, images

    # ---------------------------------------------------------------- images as they are read

    @property
    def _is_encoded(self):
        return self.selection.image_size is None

    @cached_property
    def _crops_when_read(self):
        """Whether the first step crops images out of their files."""
        first = self.augmentation[0].op if self.augmentation else None
        return self._is_encoded and first == "random_resized_crop"

    def _images(self, positions, regions, mirrored):
        """uint8 [B, H, W, 3] of one step."""
        if not self._is_encoded:
            return tf.gather(self._stored, positions)
        contents = self.selection.store.read(np.asarray(positions))
        one_by_one = zip(contents, regions, mirrored, strict=True)
        return tf.stack([self._decode(*one) for one in one_by_one])

    def _read(self, positions, labels, mirrored, draws, regions):
        """One step with the bytes of its images in place of their positions."""
        contents = read_files(self.selection.store, positions)
        return contents, labels, mirrored, draws, regions

    def _decoded(self, content, labels, mirrored, draws, region):
        """One image with its pixels in place of its bytes."""
        return self._decode(content, region, mirrored), labels, mirrored, draws

    def _decode(self, content, region, mirrored):
        size = self.image_size
        if self._crops_when_read:
            show = crop_resizer(size, self.augmentation[0].options["interpolation"])
        else:
            show = viewer(self.view)
        return decode(content, region, mirrored, show, (size, size, 3))

    @cached_property
    def _stored(self):
        return image_tensor(self.selection.store.images)

    def _step(self, epoch, step):
        """(positions, labels, mirrored, draws, regions) of one step as NumPy arrays [B, ...]."""
        return tf.nest.map_structure(lambda array: array[0], self._steps(epoch, step, step + 1))

    def _steps(self, epoch, first, end=None):
        """The same of all steps of an epoch from `first` on, [S, B, ...]."""
        with self._lock:
            arrays = self._epoch(epoch)
        steps = slice(first * self.batch_size, (end or self.steps_per_epoch) * self.batch_size)

        def by_step(array):
            return array[steps].reshape(-1, self.batch_size, *array.shape[1:])

        return tf.nest.map_structure(by_step, arrays)

    def _draw_epoch(self, epoch):
        """(positions, labels, mirrored, draws, regions) of all samples of an epoch, in its order.

        `regions` of an encoded store: what is decoded, see `decoding.regions`; else empty.
        """
        indices, mirrored = epoch_order(len(self.selection), self.mirror, self.seed, epoch)
        positions, labels = self.selection.look_up(indices)
        size, sizes, regions = self.image_size, None, ()
        if self._crops_when_read:
            sizes = self.selection.store.sizes(positions)
        draws = epoch_draws(self.augmentation, len(indices), size, self.seed, epoch, sizes)
        if self._is_encoded:
            crops = draws[0] if self._crops_when_read else None
            regions = regions_of(self.selection.store, positions, crops)
        return positions, labels, mirrored, tuple(draws), regions


def evaluation_batches(selection, batch_size, view=None):
    """Every image of a selection once, in order.

    Args:
        view: a `views.View`, for an encoded store and for ten crops; else images are shown as
            they are stored.

    Returns:
        tf.data.Dataset of (images uint8 [B, H, W, 3], or [B, 10, H, W, 3] with ten crops, labels
        int32 [B], weights float32 [B]); the last batch is filled up with rows of weight zero, so
        that any device count divides it.
    """
    indices = np.arange(-(-len(selection) // batch_size) * batch_size).reshape(-1, batch_size)
    weights = (indices < len(selection)).astype("float32")
    positions, labels = selection.look_up(np.minimum(indices, len(selection) - 1))
    batches = tf.data.Dataset.from_tensor_slices((positions, labels, weights))
    if selection.image_size is None or (view is not None and view.ten_crop):
        batches = _shown(batches, selection.store, view, batch_size)
    else:
        stored = image_tensor(selection.store.images)

        def load(positions, labels, weights):
            return tf.gather(stored, positions), labels, weights

        batches = in_parallel(batches, load, batch_size, selection.image_size)
    return with_our_options(batches.prefetch(PREFETCH))


def _shown(batches, store, view, batch_size):
    """The batches with images as the view shows them, made one by one."""
    shape = ((10,) if view.ten_crop else ()) + (view.image_size, view.image_size, 3)
    read, show = (_from_files if store.image_size is None else _from_pixels)(store, view, shape)

    def read_batch(positions, labels, weights):
        return read(positions), labels, weights

    def show_one(picture, label, weight):
        return show(picture), label, weight

    reading = batches.map(read_batch, num_parallel_calls=READERS, deterministic=True)
    pictures = reading.unbatch().map(
        show_one, num_parallel_calls=os.cpu_count() or 1, deterministic=True
    )
    return pictures.batch(batch_size, drop_remainder=True)


def _from_files(store, view, shape):
    """(positions -> what is read of images, one of which -> pixels) of an encoded store."""

    def read(positions):
        regions = tf.numpy_function(partial(regions_of, store), [positions], tf.int32)
        return read_files(store, positions), tf.ensure_shape(regions, (None, REGION))

    show = viewer(view)
    return read, lambda picture: decode(*picture, False, show, shape)


def _from_pixels(store, view, shape):
    """The same of a raw store."""
    stored = image_tensor(store.images)

    def show(pixels):
        shown = tf.numpy_function(lambda p: view.show(Image.fromarray(p)), [pixels], tf.uint8)
        return tf.ensure_shape(shown, shape)

    return lambda positions: tf.gather(stored, positions), show


def read_files(store, positions):
    """The bytes of a batch of images: string [B]."""
    contents = tf.numpy_function(store.read, [positions], tf.string)
    return tf.ensure_shape(contents, positions.shape)


def image_tensor(images):
    """Stored images as a tensor [N, H, W, 3] on the CPU that shares their memory.

    A file that is mapped stays mapped: only what is read is loaded, and it is not held twice.
    """
    if images.ctypes.data % ALIGNED or not images.flags.c_contiguous:
        images = aligned_copy(images)
    # Of a read-only array, such as a mapped file, NumPy exports no memory; TensorFlow only reads.
    memory = (ctypes.c_uint8 * images.nbytes).from_address(images.ctypes.data)
    memory.keeps_alive = images
    shared = np.frombuffer(memory, images.dtype).reshape(images.shape)
    with ON_CPU():
        return tf.experimental.dlpack.from_dlpack(shared.__dlpack__())


def in_parallel(dataset, function, batch_size, image_size):
    """Several batches at a time, as many as cores and memory allow; in their order."""
    held = WHILE_AUGMENTING * batch_size * image_size**2 * 3
    calls = max(1, min(os.cpu_count() or 1, MOST_BYTES // held))
    return dataset.map(function, num_parallel_calls=calls, deterministic=True)


def with_our_options(dataset):
    """Every process of a distribution strategy reads the batches as they are.

    tf.data's rewriting of graphs would copy the stored images into memory, so it is left out; its
    tuning of parallel calls depends on it.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_optimization.apply_default_optimizations = False
    options.autotune.enabled = False
    return dataset.with_options(options)
