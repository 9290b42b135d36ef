"""What training minimises: cross-entropy with label smoothing, and L2 of kernels and gammas."""

import keras
from keras import ops


class CrossEntropy(keras.losses.Loss):
    """Softmax cross-entropy of integer labels, with label smoothing.

    The target is 1 - s + s/K for the label and s/K for every other class (arXiv:1512.00567).
    """

    def __init__(self, label_smoothing=0.0, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, labels, logits):
        """labels integers [B], logits float32 [B, K] -> float32 [B]."""
        labels = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
        return keras.losses.categorical_crossentropy(
            labels, logits, from_logits=True, label_smoothing=self.label_smoothing
        )


def add_l2(model, l2):
    """Add l2 * sum(w^2), without a half, for every kernel and every normalisation's gamma.

    It is set on the variables and not in the layers' configs, so it does not ship.
    """
    for variable in model.trainable_variables:
        if variable.name == "gamma" or len(variable.shape) >= 2:
            variable.regularizer = keras.regularizers.L2(l2)
