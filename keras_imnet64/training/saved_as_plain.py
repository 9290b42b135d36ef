"""A model on the layers of another one, whose files are those of the other."""

import keras

from keras_imnet64.core.types import StrPath


class SavedAsPlain(keras.Model):
    """A functional model whose file holds neither its class nor what it was compiled with."""

    def save(
        self,
        filepath: StrPath,
        overwrite: bool = True,
        zipped: bool | None = None,
        **options: object,
    ) -> None:
        """Saves the plain model: a user's callback may be what calls."""
        plain = keras.Model(self.inputs[0], self.outputs[0], name=self.name)
        plain.save(filepath, overwrite, zipped, **options)
