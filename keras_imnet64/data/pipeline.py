"""tf.data pipelines: the order and draws of an epoch -> gather -> augment -> batches.

`TrainingStream` feeds `Model.fit` epoch after epoch, from any step of any epoch;
`evaluation_batches` yields every image of a selection once. Both feed TensorFlow and JAX alike.
"""

import threading
from functools import lru_cache

import numpy as np
import tensorflow as tf

from keras_imnet64.data.augment.crops import mirror
from keras_imnet64.data.augment.mixing import mixed_labels
from keras_imnet64.data.order import epoch_draws, epoch_order
from keras_imnet64.errors import UserError


class TrainingStream:
    """Training batches as a function of (seed, epoch, step).

    Args:
        selection: a `Selection` of N images.
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
        size = selection.image_size
        self.mean_image = np.zeros((size, size, 3), "uint8") if mean_image is None else mean_image
        self.num_samples = len(selection) * (2 if mirror == "both" else 1)
        self.steps_per_epoch = self._whole_batches(steps_per_epoch)
        self._begin = (0, 0)
        self._lock = threading.Lock()
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _whole_batches(self, limit):
        whole = self.num_samples // self.batch_size
        if not whole:
            raise UserError(
                f"data.batch_size must be at most {self.num_samples}, the samples of an epoch; "
                f"received {self.batch_size}"
            )
        if limit and limit > whole:
            raise UserError(
                f"data.steps_per_epoch must be at most {whole}, the whole batches of an epoch; "
                f"received {limit}"
            )
        return limit or whole

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
        batches = steps.map(self._load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        batches = without_autoshard(batches.prefetch(tf.data.AUTOTUNE))
        # Keras takes an epoch's length from the cardinality. Left unknown it would find the end by
        # asking for one batch too many, and take a resumed epoch's steps for the length of all.
        batches.cardinality = lambda: tf.constant(self.steps_per_epoch, "int64")
        return batches

    def batch(self, epoch, step):
        """(images, labels) of one step as NumPy arrays, without tf.data."""
        images, labels = self._load((epoch, step))
        return images.numpy(), labels.numpy()

    def stages(self, epoch, step):
        """What becomes of the pictures of one step, operation by operation.

        Returns:
            ([(name, uint8 [B, H, W, 3]), ...], labels int32 [B]): "stored" first; the last is what
            the model is fed.
        """
        images, labels, mirrored, draws = self._read((epoch, step))
        stages = self._stages(images, mirrored, draws)
        return [(name, images.numpy()) for name, images in stages], labels.numpy()

    def _remaining_steps(self):
        """Pairs (epoch, step) from where the iteration begins."""
        begin = tf.numpy_function(lambda: np.array(self._begin, "int64"), [], tf.int64)
        epoch, first = begin[0], begin[1]
        steps = tf.data.Dataset.range(first, self.steps_per_epoch)
        return steps.map(lambda step: tf.stack([epoch, step]))

    def _load(self, epoch_and_step):
        images, labels, mirrored, draws = self._read(epoch_and_step)
        *_, (_, images) = self._stages(images, mirrored, draws)
        if self.augmentation and self.augmentation[-1].mixes:
            labels = mixed_labels(labels, draws[-1])
        return images, labels

    def _read(self, epoch_and_step):
        """Stored pictures of one step and what is drawn for them, a dict for each operation."""
        draws_like = self._flat_draws(self._begin[0], slice(0, 1))
        types = [tf.uint8, tf.int32, tf.bool, *(array.dtype for array in draws_like)]
        images, labels, mirrored, *drawn = tf.numpy_function(self._gather, [epoch_and_step], types)
        size = self.selection.image_size
        images.set_shape((self.batch_size, size, size, 3))
        for tensor in (labels, mirrored):
            tensor.set_shape((self.batch_size,))
        for tensor, array in zip(drawn, draws_like, strict=True):
            tensor.set_shape((self.batch_size, *array.shape[1:]))
        drawn = iter(drawn)
        draws = [{name: next(drawn) for name in names} for names in self._draw_names()]
        return images, labels, mirrored, draws

    def _stages(self, images, mirrored, draws):
        """(name, images) from the stored pictures to those that the model is fed."""
        yield "stored", images
        if self.mirror != "none":
            images = mirror(images, mirrored)
            yield "mirror", images
        for step, drawn in zip(self.augmentation, draws, strict=True):
            images = step.apply(images, drawn, self.mean_image)
            yield step.op, images

    def _gather(self, epoch_and_step):
        """NumPy: images, labels and draws of one step."""
        epoch, step = (int(number) for number in epoch_and_step)
        samples = slice(step * self.batch_size, (step + 1) * self.batch_size)
        indices, mirrored, _ = self._cached_epoch(epoch)
        images, labels = self.selection.gather(indices[samples])
        return images, labels, mirrored[samples], *self._flat_draws(epoch, samples)

    def _flat_draws(self, epoch, samples):
        draws = self._cached_epoch(epoch)[2]
        return [array[samples] for step in draws for array in step.values()]

    def _draw_names(self):
        return [list(step) for step in self._cached_epoch(self._begin[0])[2]]

    def _cached_epoch(self, epoch):
        with self._lock:
            return self._epoch(epoch)

    def _draw_epoch(self, epoch):
        indices, mirrored = epoch_order(len(self.selection), self.mirror, self.seed, epoch)
        size = self.selection.image_size
        draws = epoch_draws(self.augmentation, self.num_samples, size, self.seed, epoch)
        return indices, mirrored, draws


def evaluation_batches(selection, batch_size):
    """Every image of a selection once, in order.

    Returns:
        tf.data.Dataset of (images uint8 [B, H, W, 3], labels int32 [B], weights float32 [B]); the
        last batch is filled up with rows of weight zero, so that any device count divides it.
    """
    total, size = len(selection), selection.image_size

    def load(start):
        indices = np.arange(start, start + batch_size)
        images, labels = selection.gather(np.minimum(indices, total - 1))
        return images, labels, (indices < total).astype("float32")

    def load_batch(start):
        images, labels, weights = tf.numpy_function(load, [start], [tf.uint8, tf.int32, tf.float32])
        images.set_shape((batch_size, size, size, 3))
        labels.set_shape((batch_size,))
        weights.set_shape((batch_size,))
        return images, labels, weights

    starts = tf.data.Dataset.range(0, total, batch_size)
    batches = starts.map(load_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return without_autoshard(batches.prefetch(tf.data.AUTOTUNE))


def without_autoshard(dataset):
    """Every process of a distribution strategy reads the batches as they are."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
