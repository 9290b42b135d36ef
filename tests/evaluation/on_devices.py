"""Child of test_several_devices.py: asks every command that predicts, on N virtual devices.

Usage: python on_devices.py NUM_DEVICES FOLDER DATA_DIR OUT COMMAND..., with FOLDER as the test's
`write_inputs` makes it. Files are written into OUT; what the commands return is printed as JSON.
"""

import json
import sys
from pathlib import Path

from keras_imnet64.backend.devices import choose_backend, take_devices


def ask(devices, folder, data_dir, out, names):
    """What each of some commands returns, by its name."""
    from keras_imnet64.compare.finished import compare_finished
    from keras_imnet64.core.validation import to_json
    from keras_imnet64.evaluation.evaluate import evaluate
    from keras_imnet64.evaluation.features import embed
    from keras_imnet64.evaluation.predict import predict
    from keras_imnet64.report import report
    from keras_imnet64.spectral.ensemble import ensemble

    model, pictures, run = folder / "model.keras", folder / "pictures", folder / "run"
    data = {"data_dir": data_dir, "devices": devices}
    tables = {"per_class": out / "classes.csv", "predictions": out / "predictions.csv"}
    commands = {
        "evaluate": lambda: evaluate(model, **data, **tables),
        "predict": lambda: predict(model, pictures, devices=devices),
        "embed": lambda: embed(model, pictures, out / "features.npz", devices=devices),
        "compare": lambda: to_json(compare_finished([run, folder / "other.keras"], **data)),
        "report": lambda: report([run], out / "report.html", **data),
        "ensemble": lambda: ensemble(out / "branches", fusion="fit", branches=[0, 1], **data),
    }
    return {name: commands[name]() for name in names}


def main(num_devices, folder, data_dir, out, *names):
    choose_backend()
    devices = take_devices(virtual=int(num_devices))
    found = ask(devices, Path(folder), Path(data_dir), Path(out), names)
    print(json.dumps({"devices": devices.names} | found))


if __name__ == "__main__":
    main(*sys.argv[1:])
