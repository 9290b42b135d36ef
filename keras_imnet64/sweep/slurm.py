"""The script of a Slurm job array that trains the cells of a grid, one in each job."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.files import write_atomic
from keras_imnet64.core.types import StrPath
from keras_imnet64.runs import lock
from keras_imnet64.sweep.folder import SweepFolder, begin, check_sweep_folder
from keras_imnet64.sweep.grid import record_of
from keras_imnet64.sweep.plan import Plan

SECONDS_TO_SAVE = 120  # between the signal and the end of a job's time


def write_script(plan: Plan, out_dir: StrPath, command: Sequence[str]) -> Path:
    """Writes the script into the folder of the sweep, which it begins, and returns its path.

    Args:
        command: the command line of this sweep, to which `--cell NUMBER` is added.

    Raises:
        UserError: the folder holds something else, or see `script`.
    """
    record = record_of(plan)
    folder = check_sweep_folder(out_dir, record, fresh=False)
    text = script(plan, folder, command, Path.cwd())
    begin(folder, record, fresh=False)
    with lock(folder.as_run):
        write_atomic(folder.script_file, text)
    return folder.script_file


def script(plan: Plan, folder: SweepFolder, command: Sequence[str], directory: Path) -> str:
    """Returns the text of the script.

    Args:
        directory: in which the command runs, as its paths may be relative.

    Raises:
        UserError: the path of the folder cannot stand in such a script.
    """
    # In names of files Slurm replaces %a by the number of the job.
    output = str((folder.path / "cell").absolute()).replace("%", "%%")
    if any(character in output for character in '"\\\n\r'):
        raise UserError(
            f"Slurm cannot write to {folder.path}, whose path has a quotation mark, a backslash or "
            "a line break: name another folder with --out"
        )
    return f"""#!/bin/bash
# Trains the {len(plan.cells)} cells of a sweep of {plan.name}. Submit it with `sbatch`.
# Afterwards, run the command of the last line, without srun and --cell, to see the results.
# Add the options that your cluster requires, such as --partition, --time, --gpus-per-task and
# --cpus-per-task.
#SBATCH --job-name={shlex.quote(f"sweep-{plan.name}")}
#SBATCH --array=0-{len(plan.cells) - 1}
#SBATCH --output="{output}-%3a.slurm.log"
#SBATCH --open-mode=append
# So many seconds before its time limit, a job saves its state. Submit the script again to resume.
#SBATCH --signal=TERM@{SECONDS_TO_SAVE}
cd {shlex.quote(str(directory))}
srun {shlex.join(command)} --cell "$SLURM_ARRAY_TASK_ID"
"""
