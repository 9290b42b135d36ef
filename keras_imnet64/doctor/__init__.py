"""What state this installation is in: versions, backends, machine, disk, data sets, and problems.

`facts` are read here, `trials` of backends and data sets run in processes of their own, `problems`
are told from the facts alone, `text` makes the report readable. Nothing is mended or changed.
"""

from keras_imnet64.backend.devices import BACKENDS
from keras_imnet64.doctor import facts, trials
from keras_imnet64.doctor.problems import problems_of
from keras_imnet64.doctor.text import lines

__all__ = ["examine", "lines"]


def examine(data_dir=None, cache_dir=None):
    """Everything that tends to go wrong before a run begins; takes about as long as the imports.

    Args:
        data_dir, cache_dir: as for `data.datasets.prepare`.

    Returns:
        dict, fit for JSON: versions, unmet_requirements, keras_json, chosen_backend, chosen_by,
        refused_settings, backends, machine, disk, datasets, problems (a list of {"what": sentence,
        "mend": command or advice}, empty where all is well). Bytes and seconds are numbers; None is
        unknown.
    """
    keras_json = facts.read_keras_json()
    chosen, by = facts.chosen_backend(keras_json)
    datasets, datasets_error = trials.examine_datasets(data_dir, cache_dir)
    report = {
        "versions": facts.versions(),
        "unmet_requirements": facts.unmet_requirements(),
        "keras_json": keras_json,
        "chosen_backend": chosen,
        "chosen_by": by,
        "refused_settings": facts.refused_settings(),
        "backends": {name: trials.examine_backend(name, keras_json) for name in BACKENDS},
        "machine": facts.machine(),
        "disk": facts.disk(data_dir, cache_dir),
        "datasets": datasets,
        "datasets_error": datasets_error,
    }
    return report | {"problems": problems_of(report)}
