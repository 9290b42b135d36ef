"""An export whose steps run in the process of the test, which is much faster."""

import importlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

from keras_imnet64.export import child
from keras_imnet64.export.messages import ExportRequest

module = importlib.import_module("keras_imnet64.export")


def run_in_this_process(patch):
    """Makes both steps of an export run here, where no package can be hidden from the second."""

    def run_child(_, step, work, *, request, **options):
        outcome = child.run_step(step, Path(work), ExportRequest(**json.loads(json.dumps(request))))
        return SimpleNamespace(objects=lambda: [asdict(outcome)], failure=None)

    patch.setattr(module, "run_child", run_child)
    for name, row in module.FORMATS.items():
        patch.setitem(module.FORMATS, name, replace(row, without=()))
