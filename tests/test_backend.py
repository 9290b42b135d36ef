"""Which backend is chosen, and what is said where none can be."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ("{", {}, "keras.json does not work for Keras"),
        ('{"floatx": "float17"}', {}, 'its "floatx" is wrong): mend or delete it'),
        ('{"image_data_format": "channels_first"}', {}, '"image_data_format" is wrong'),
        ('{"backend": "theano"}', {}, 'its "backend" is wrong'),
        ("[]", {}, "it is not a JSON object"),
        ("{}", {"KERAS_BACKEND": "tensorflw"}, 'did you mean "tensorflow"?'),
        ('{"backend": "theano"}', {"KERAS_BACKEND": "jax"}, ""),
        ('{"backend": "jax", "floatx": "float32"}', {}, ""),
    ],
)
def test_settings_that_keras_would_break_on(settings, environment, message, tmp_path):
    (tmp_path / "keras.json").write_text(settings)
    code = (
        "from keras_imnet64.backend import choose_backend; from keras_imnet64.errors import *\n"
        "try: choose_backend()\nexcept UserError as error: print(error)"
    )
    others = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=others | {"KERAS_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert message in child.stdout and child.stdout.count("\n") == bool(message)
