"""Compares training on several backends, dtypes or numbers of devices, from one start.

`compare` checks what is asked and makes the result. `folder` keeps what each side has finished and
starts a process for each, one after the other; `worker` is such a process, which `probe` serves
where it computes a step tensor by tensor; `records` and `request` are what the two pass on.
`verdict` judges by numbers alone. `scores` trains whole runs, and `finished` compares runs and
model files image by image. `result` is what comes out, `text` prints it and `page` shows it in a
browser.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from keras_imnet64.compare.folder import RESULT, SETTINGS, Comparison
from keras_imnet64.compare.page import page
from keras_imnet64.compare.result import FinalScores, Result, result_of
from keras_imnet64.compare.scores import final_scores
from keras_imnet64.compare.sides import check_exact, parse_sides
from keras_imnet64.compare.verdict import step_to_examine
from keras_imnet64.core.errors import UserError, reason
from keras_imnet64.core.files import write_atomic, write_json
from keras_imnet64.core.paths import DEFAULT_RUNS
from keras_imnet64.core.types import StrPath
from keras_imnet64.core.validation import read_record, to_json
from keras_imnet64.recipe.loading import load_recipe


def compare(
    name_or_path: StrPath,
    sides: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    num_steps: int = 50,
    num_epochs: int | None = None,
    num_seeds: int = 1,
    out: StrPath | None = None,
    virtual_devices: int | None = None,
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
) -> Result:
    """Trains a recipe on each side from the same start and the same batches, and compares them.

    Args:
        name_or_path, overrides: as for `load_recipe`.
        sides: such as "tensorflow", "tensorflow:mixed_bfloat16" or "jax@2", on two devices; the
            others are held against the first.
        num_steps: of each side, step by step.
        num_epochs: of whole runs, whose scores are compared; None trains none.
        num_seeds: of whole runs of each side.
        out: the folder of the comparison, where a killed one goes on; default:
            saved_models/<recipe>-compared.
        virtual_devices: as for `take_devices`.
        data_dir, cache_dir: as for `fit`.

    Raises:
        UserError: what is asked does not fit, or the recipe cannot be compared here.
        RunFailed: a side failed; what is finished is kept.
    """
    recipe = load_recipe(name_or_path, overrides)
    check_exact(recipe)
    if num_epochs is not None:  # `fit` would refuse them after all steps are compared
        load_recipe(name_or_path, [*overrides, f"train.epochs={num_epochs}"])
    comparison = Comparison(
        folder=Path(out or DEFAULT_RUNS / f"{recipe.name}-compared"),
        recipe=recipe,
        sides=tuple(parse_sides(sides)),
        num_steps=num_steps,
        virtual_devices=virtual_devices,
        data_dir=str(data_dir) if data_dir else None,
        cache_dir=str(cache_dir) if cache_dir else None,
    )
    comparison.prepare()
    for index in range(len(comparison.sides)):
        comparison.train(index, steps=[0])
    examined = [examine(comparison, index) for index in range(1, len(comparison.sides))]
    result = result_of(comparison, examined)
    _write(comparison, result)  # whatever becomes of the whole runs
    if num_epochs is not None:
        result = replace(result, scores=final_scores(comparison, num_epochs, num_seeds))
        _write(comparison, result)
    return result


def _write(comparison: Comparison, result: Result) -> None:
    write_json(comparison.result_file, to_json(result))
    write_atomic(comparison.page_file, page(result))


def is_comparison(path: StrPath) -> bool:
    """Whether a folder is one of a comparison."""
    return (Path(path) / SETTINGS).is_file()


def read_result(folder: StrPath) -> Result:
    """Returns the result in the folder of a comparison.

    Raises:
        UserError: the comparison is not finished, or its result is damaged.
    """
    file = Path(folder) / RESULT
    try:
        return read_record(Result, file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is missing or damaged ({reason(error)}): run `compare` again, which goes on"
        ) from error


def whole_runs(folder: StrPath, scores: FinalScores | None) -> list[Path]:
    """Returns the folders of the finished whole runs of a comparison, those of a seed together.

    Args:
        scores: of the comparison's result, whose runs they are; None if it has none.
    """
    if scores is None:
        return []
    pattern = f"*/{scores.epochs}-epochs-seed-*/metrics.json"
    seeds = {seed for side in scores.sides for seed in side.seeds}
    found = [file.parent for file in Path(folder).glob(pattern)]
    runs = [run for run in found if int(run.name.rpartition("-")[2]) in seeds]

    def order(run: Path) -> list[int]:
        """The epochs, the seed and the number of the side."""
        return [int(digits) for digits in re.findall(r"\d+", f"{run.name} {run.parent.name}")[:3]]

    return sorted(runs, key=order)


def examine(comparison: Comparison, index: int) -> list[int]:
    """Makes a side and the first one compute the step again at which they diverge.

    If that explains nothing, the first side trains again with a disturbance in each step.

    Returns:
        The steps that both have computed from the same state.
    """
    tolerance = comparison.tolerance(index)
    a, b = comparison.trajectory(0), comparison.trajectory(index)
    if b.untrained is not None:
        return [0]
    step = step_to_examine(a, b, comparison.runs(), tolerance)
    steps = [0]
    if step and not comparison.compare_step(index, 0).first:
        comparison.train(0, steps=[step])
        comparison.train(index, steps=[step])
        steps.append(step)
    if comparison.judge(index, steps).verdict.is_unexplained:
        comparison.disturb(index, steps)
    return steps
