"""Examines this installation: versions, backends, machine, disk, data sets, and their problems.

`facts` are read in this process; `trials` of backends and data sets run in child processes (module
`child`). `problems` finds what is wrong in a `report`, and `text` prints it. Nothing is changed.
"""

from dataclasses import replace

from keras_imnet64.backend.keras_settings import BACKENDS, keras_settings
from keras_imnet64.core.types import StrPath
from keras_imnet64.doctor import facts, trials
from keras_imnet64.doctor.problems import problems_of
from keras_imnet64.doctor.report import Report
from keras_imnet64.doctor.text import lines

__all__ = ["examine", "lines"]


def examine(data_dir: StrPath | None = None, cache_dir: StrPath | None = None) -> Report:
    """Examines what often fails before a run begins; takes about as long as importing the backends.

    Args:
        data_dir, cache_dir: as for `data.datasets.prepare`.
    """
    settings = keras_settings()
    chosen, chosen_by = facts.chosen_backend(settings)
    datasets, datasets_error = trials.examine_datasets(data_dir, cache_dir)
    report = Report(
        versions=facts.versions(),
        unmet_requirements=facts.unmet_requirements(),
        keras_json=settings,
        chosen_backend=chosen,
        chosen_by=chosen_by,
        refused_settings=facts.refused_settings(),
        backends={name: trials.examine_backend(name, settings) for name in BACKENDS},
        machine=facts.machine(),
        disk=facts.disk(data_dir, cache_dir),
        programs=facts.programs(),
        datasets=datasets,
        datasets_error=datasets_error,
    )
    return replace(report, problems=problems_of(report))
