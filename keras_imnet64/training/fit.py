"""The hub: from a recipe to a trained, shipped and scored model. Reads top to bottom.

    recipe -> data -> model -> Model.fit with checkpoints -> ship -> score the file

The same call on a run folder that is not finished goes on from its newest checkpoint. Which images
are read is told in `data`, how the parts are built in `build`, what may happen in a run folder in
`folder`.
"""

import contextlib
from dataclasses import replace
from importlib.metadata import version

import keras

from keras_imnet64.backend.devices import take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import RunFailed, Stopped
from keras_imnet64.core.files import write_atomic, write_csv, write_json
from keras_imnet64.data.stores.decoding import as_run_failed
from keras_imnet64.evaluation.evaluate import (
    make_scorer,
    score,
    scoring_batch_size,
    ten_crop_batch_size,
    with_ten_crops,
)
from keras_imnet64.models.load import load_model
from keras_imnet64.models.macs import count_parameters
from keras_imnet64.models.ship import fill, float32_copy, ship
from keras_imnet64.recipe.costs import outline_of
from keras_imnet64.recipe.loading import load_recipe
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.runs import classes_text
from keras_imnet64.training.build import (
    check_training,
    compile_for_training,
    make_model,
    model_info_of,
)
from keras_imnet64.training.callbacks import COLUMNS, EpochEnd, NotFinite, Position, StopRequest
from keras_imnet64.training.checkpoints import Checkpoints
from keras_imnet64.training.data import load_data, make_stream
from keras_imnet64.training.memory import PeakMemory
from keras_imnet64.training.optim import averaged_weights
from keras_imnet64.training.progress_bar import ProgressBar
from keras_imnet64.training.recovery import recover
from keras_imnet64.training.run_folder import (
    acquire_run,
    check_run,
    has_state,
    report_os_errors,
    resume,
    write_environment,
)
from keras_imnet64.training.same_images import check_same_images, with_advice
from keras_imnet64.training.state import variables_by_path


@keras_defaults()
def fit(
    recipe,
    out_dir,
    *,
    model=None,
    callbacks=(),
    data_dir=None,
    cache_dir=None,
    devices=None,
    fresh=False,
    pack_progress=None,
):
    """Train a recipe into a run folder, or go on with the run that is there.

    Args:
        recipe: a `Recipe`, or the name or path of one.
        out_dir: the run folder.
        model: a functional or sequential Keras model of your own, of Keras' own layers, pixels
            [B, H, W, 3] -> logits [B, K], in place of the recipe's; it is trained from the weights
            it has. On several devices build it within `devices.scope()`.
        callbacks: Keras callbacks of your own, called after ours; validation is in `history`.
        data_dir, cache_dir: where data sets and their stores lie, see `datasets.open_dataset`.
        devices: what `take_devices` gave; None takes all.
        fresh: begin anew; a run that is in the folder is renamed and kept.
        pack_progress: called as (description, done, total) while a data set is packed.

    Returns:
        Run: with `metrics` and `history`.

    Raises:
        UserError: the recipe cannot be trained here.
        RunFailed: the loss or a weight is not finite; memory or disk ran out.
        Stopped: a signal came; the state is saved and the same call goes on.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_run(recipe, out_dir, fresh)
    own = model is not None
    devices = devices or take_devices()
    parts = recipe.train.accumulate_steps
    devices.check_batch_size(
        recipe.data.batch_size // parts,
        "data.batch_size / train.accumulate_steps" if parts > 1 else "data.batch_size",
    )
    with report_os_errors(out_dir), contextlib.ExitStack() as stack:
        check_training(recipe)
        if not own:
            outline_of(recipe)  # refuses what cannot be built, before any data is read
        data = load_data(recipe, data_dir, cache_dir, pack_progress)
        stream = make_stream(recipe, data)
        stack.enter_context(devices.scope())
        model = make_model(recipe, data, model, warm=fresh or not has_state(out_dir))
        plain = float32_copy(model)
        metrics = compile_for_training(model, recipe, stream, devices)
        variables = variables_by_path(model, metrics)

        run = acquire_run(recipe, out_dir, fresh, stack)
        progress, metric_state = resume(run, recipe, variables)
        check_same_images(run, recipe, data, stream, progress)
        introduce(recipe, data, model, own, devices, stream, progress)
        write_environment(run, data, own, stream, devices, progress)

        info = model_info_of(recipe, data, own)
        stop = StopRequest()
        bar = ProgressBar(
            epochs=recipe.train.epochs,
            steps_per_epoch=stream.steps_per_epoch,
            batch_size=stream.batch_size,
            rate_at=rate_at(model.optimizer, stream, recipe, progress),
        )
        metric_variables = {p: v for p, v in variables.items() if p.startswith("metrics/")}
        position = Position(stream, bar, stop, metric_variables)
        checkpoints = Checkpoints(run.checkpoints, model, variables, recipe.train.checkpoint_every)
        stack.callback(checkpoints.close)
        epoch_end = EpochEnd(
            run,
            recipe,
            plain=plain,
            scorer=make_scorer(plain),
            validation=data.validation,
            view=data.view and replace(data.view, ten_crop=False),
            scoring_batch_size=scoring_batch_size(devices),
            checkpoints=checkpoints,
            position=position,
            info=info,
            progress=progress,
        )
        stop.model = model

        def start(found, metric_state):
            """Training goes on from what was found, in this run or one before it."""
            found = dict(found)  # which may be the same
            progress.clear()
            progress.update(found)
            at = progress["epoch"], progress["step"]
            position.start(*at, metric_state)
            checkpoints.begin(at[0] * stream.steps_per_epoch + at[1])
            return progress

        def restore(before=None):
            checkpoints.wait()
            return start(*resume(run, recipe, variables, before))

        def go_on(*ours):
            every = [position, epoch_end, *ours, *(callbacks or ()), bar]
            train(model, stream, recipe, progress, every)

        stack.enter_context(with_advice(run, recipe, stream, progress))
        start(progress, metric_state)
        with stop.listening(), PeakMemory(devices) as memory:
            keep_going(go_on, restore, recipe, run, stream, epoch_end)
        checkpoints.wait()
        if stop.requested or progress["step"]:
            done = f"in epoch {progress['epoch'] + 1} after {progress['step']} steps"
            if not progress["step"]:
                done = f"after epoch {progress['epoch']}"
            raise Stopped(
                f"stopped {done}; the state is saved in {run.path}, and the same command goes on "
                "from there"
            )
        finish(run, recipe, data, devices, model, plain, info, progress, memory.megabytes)
    return run


def keep_going(train, restore, recipe, run, stream, epoch_end):
    """Train to the end, or as far as something that is not finite lets it."""
    while True:
        try:
            return train()
        except NotFinite as trouble:
            recover(trouble, recipe, run, stream, restore, epoch_end, train)
        if epoch_end.position.stop.requested:
            return None


def train(model, stream, recipe, progress, callbacks):
    """Keras' loop, from where the run is to its last epoch."""
    if progress["epoch"] >= recipe.train.epochs or progress.get("stopped_early"):
        return
    try:
        with as_run_failed(stream.selection.store):
            model.fit(
                stream.dataset(),
                initial_epoch=progress["epoch"],
                epochs=recipe.train.epochs,
                callbacks=callbacks,
                shuffle=False,  # the stream is in its order already
                verbose=0,
            )
    except Exception as error:  # every backend has its own type for it
        if not is_out_of_memory(error):
            raise
        raise RunFailed(out_of_memory(recipe)) from error
    finally:
        callbacks[-1].close()


def out_of_memory(recipe):
    """What to do about it, in a sentence whose command works."""
    batch_size, parts = recipe.data.batch_size, recipe.train.accumulate_steps
    more = next((n for n in range(parts + 1, batch_size + 1) if batch_size % n == 0), None)
    remedy = "set a smaller data.batch_size"
    if more:
        remedy = (
            f"--fresh --set train.accumulate_steps={more} computes the same batch in {more} parts "
            "(each with batch statistics of its own; not with tensorflow on several devices)"
        )
    return f"out of memory at {batch_size // parts} images per step: {remedy}"


def is_out_of_memory(error):
    text = f"{type(error).__name__} {error}".lower()
    signs = ("resource_exhausted", "resourceexhausted", "out of memory", "memoryerror")
    return any(sign in text for sign in signs)


def finish(run, recipe, data, devices, model, plain, info, progress, peak_memory):
    """Ship the last weights, score the files as anyone would load them, and write metrics.json."""
    fill(plain, model, averaged_weights(model.optimizer))
    epochs = len(progress["history"])
    ship(plain, run.model, info | {"epoch": epochs})
    model_score = score_file(run.model, data, devices)
    if progress["best"] is None:
        write_atomic(run.best, run.model.read_bytes())
        best_score = model_score | {"epoch": epochs}
    else:
        best_score = score_file(run.best, data, devices) | progress["best"]
    metrics = what_was_scored(recipe, data, devices) | {
        "epochs": epochs,
        "seconds": round(sum(row["seconds"] for row in progress["history"]), 1),
        "peak_memory_mb": peak_memory,  # of the process that trained last
        "model.keras": model_score,
        "best.keras": best_score,
    }
    write_csv(run.history_file, COLUMNS, progress["history"])
    write_atomic(run.classes_file, classes_text(data.final.class_names))
    write_json(run.metrics_file, metrics)
    say(
        f"{run.model}: top1 {model_score['top1']:.2f} %, top5 {model_score['top5']:.2f} %, loss "
        f"{model_score['loss']:.4f} on all {model_score['count']} images of {metrics['dataset']} "
        f"{metrics['split']}{'' if metrics['verified'] else ' (NOT VERIFIED data)'}, from the file"
    )


def what_was_scored(recipe, data, devices):
    """Of which recipe, on which images, how: what scores in a metrics.json begin with."""
    return {
        "recipe": recipe.name,
        "backend": devices.backend,
        "dataset": data.final.store.dataset,
        "split": data.final.store.split,
        "verified": bool(data.final.store.verified and data.train.store.verified),
        "selected_on": recipe.selection,
        "crops": 10 if recipe.evaluation.ten_crop else 1,
    }


def score_file(path, data, devices):
    model, view, batch_size = load_model(path), data.view, scoring_batch_size(devices)
    if view and view.ten_crop:
        model, batch_size = with_ten_crops(model, view.image_size), ten_crop_batch_size(devices)
    return score(make_scorer(model), data.final, batch_size, view)


def rate_at(optimizer, stream, recipe, progress):
    """(epoch, step) -> learning rate, without touching variables that a step may hold."""
    parts = recipe.train.accumulate_steps

    def rate(epoch, step):
        update = (epoch * stream.steps_per_epoch + step) // parts
        return float(optimizer._learning_rate(update)) * progress["plateau"]["scale"]

    return rate


def introduce(recipe, data, model, own, devices, stream, progress):
    """Say what is about to happen: model, data and its state, devices, steps."""
    name = f"{model.name}, your own" if own else recipe.model.in_words
    store, parts = data.train.store, recipe.train.accumulate_steps
    held_out = f" + {len(data.validation)} held out" if recipe.data.holdout else ""
    state = "verified" if store.verified else "NOT VERIFIED: not to be called by the set's name"
    say(f"recipe   {recipe.name}")
    say(f"model    {name}: {count_parameters(model):,} parameters")
    say(
        f"data     {store.dataset}: {len(data.train):,}{held_out} train, {len(data.final):,} "
        f"validation, {data.num_classes} classes of {data.image_size} px, {state}"
    )
    say(
        f"devices  {devices.backend} {version(devices.backend)} on {', '.join(devices.names)}, "
        f"{recipe.train.dtype}, Keras {keras.__version__}"
    )
    say(
        f"steps    {stream.steps_per_epoch // parts:,} x {recipe.train.epochs} epochs of "
        f"{recipe.data.batch_size} images" + (f" in {parts} parts" if parts > 1 else "")
    )
    for step in stream.inexact_steps:
        say(
            f"augment  {step.op} draws its own random numbers: this run cannot be repeated, nor "
            "resumed, to the bit"
        )
    if progress["epoch"] or progress["step"]:
        say(f"         from epoch {progress['epoch'] + 1}, step {progress['step']}")
