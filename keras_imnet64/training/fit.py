"""Trains a recipe to a shipped and scored model: the whole run, from top to bottom.

    recipe -> images -> compiled model -> Keras' loop with checkpoints -> statistics measured anew,
    if the recipe says so -> model files -> scores

The same call on an unfinished run folder resumes from its newest checkpoint. `setup` builds the
model and the stream of batches, `trainer` owns the run while it trains, `run_folder` checks that
the recipe may train in the folder, `resume` restores the checkpoint, and `same_images` checks that
the images are still the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import keras

from keras_imnet64.backend.cluster import ALONE
from keras_imnet64.backend.devices import Devices, take_devices
from keras_imnet64.backend.keras_settings import keras_defaults
from keras_imnet64.core.console import say
from keras_imnet64.core.errors import first_few
from keras_imnet64.core.files import write_atomic, write_json
from keras_imnet64.core.paths import expand
from keras_imnet64.core.types import PackProgress, StrPath
from keras_imnet64.core.validation import to_json
from keras_imnet64.data.datasets import scored_images
from keras_imnet64.models.macs import count_parameters
from keras_imnet64.recipe.loading import as_recipe
from keras_imnet64.recipe.optimizers import StepOptions
from keras_imnet64.recipe.schema import Recipe
from keras_imnet64.records import Metrics, RunState, SizeStage
from keras_imnet64.runs import Run, classes_text
from keras_imnet64.training.callbacks.recording import write_history
from keras_imnet64.training.clock import in_tenths
from keras_imnet64.training.memory import PeakMemory
from keras_imnet64.training.model import as_before
from keras_imnet64.training.nan_recovery import train_with_recovery
from keras_imnet64.training.run_folder import (
    acquire_together,
    check_run,
    check_together,
    has_checkpoint,
    keep_initial_weights,
    report_os_errors,
    write_environment,
)
from keras_imnet64.training.same_images import advise_on_failed_images, check_same_images
from keras_imnet64.training.scoring import describe_scores, have_same_network, score_file
from keras_imnet64.training.setup import TrainingSetup, build_setup
from keras_imnet64.training.trainer import Trainer


@keras_defaults()
def fit(
    recipe: Recipe | StrPath,
    out_dir: StrPath,
    *,
    model: keras.Model | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    data_dir: StrPath | None = None,
    cache_dir: StrPath | None = None,
    devices: Devices | None = None,
    fresh: bool = False,
    pack_progress: PackProgress | None = None,
) -> Run:
    """Trains a recipe into a run folder, or resumes the run that is there.

    Args:
        recipe: a `Recipe`, or the name or path of one.
        out_dir: the run folder.
        model: your functional or sequential Keras model, in place of the recipe's: pixels
            [B, H, W, 3] -> logits [B, K], of Keras' own layers. Training starts from its weights.
            On several devices build it within `devices.scope()`.
        callbacks: your Keras callbacks, called after ours; `on_epoch_end` is also given val_loss,
            val_top1 and val_top5 of epochs that are scored.
        data_dir: the folder of data sets; None: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
        cache_dir: the folder whose `packed` holds the packed stores; None: the data dir.
        devices: the result of `take_devices`; None takes all. Those of several processes, each of
            which makes the same call, train one run; process 0 writes its files.
        fresh: start over; a run in the folder is renamed and kept.
        pack_progress: called as (description, done, total) while a data set is packed.

    Returns:
        The run, with its `metrics` and `history`.

    Raises:
        UserError: the recipe cannot be trained here.
        RunFailed: the loss or a weight is not finite; memory or disk ran out.
        Stopped: a signal stopped the run; its state is saved and the same call resumes it.
    """
    recipe, out_dir = as_recipe(recipe), expand(out_dir)
    cluster = devices.cluster if devices else ALONE
    check_together(recipe, fresh, cluster)
    cluster.from_writer(partial(check_run, recipe, out_dir, fresh))
    resumes = not fresh and bool(cluster.from_writer(partial(has_checkpoint, out_dir)))
    if resumes:
        recipe = keep_initial_weights(recipe, out_dir, cluster)
    devices = devices or take_devices()
    with report_os_errors(out_dir), as_before(model):
        setup = build_setup(
            recipe,
            devices,
            model=model,
            load_initial_weights=not resumes,
            data_dir=data_dir,
            cache_dir=cache_dir,
            pack_progress=pack_progress,
        )
        with (
            devices.scope(),
            acquire_together(recipe, out_dir, fresh, cluster) as run,
            Trainer(run, setup, callbacks) as trainer,
            advise_on_failed_images(trainer),
        ):
            trainer.restore()
            cluster.from_writer(partial(check_same_images, run, setup, trainer.state))
            log_start(setup, trainer.state)
            cluster.from_writer(partial(write_environment, run, setup, trainer.state))
            with PeakMemory(devices) as memory:
                train_with_recovery(trainer)
                trainer.fill_copy(len(trainer.state.history))
                trainer.remeasure_copy()
            finish(trainer, memory.megabytes)
    return run


def log_start(setup: TrainingSetup, state: RunState) -> None:
    """Logs the recipe, model, data, devices and steps, and where a resumed run starts."""
    recipe, data, devices, stream = setup.recipe, setup.data, setup.devices, setup.stream
    store, num_parts = data.train.store, recipe.train.accumulate_steps
    name = f"{setup.model.name}, your own" if setup.own_model else recipe.model.in_words
    held_out = f" + {len(data.validation)} held out" if recipe.data.holdout else ""
    verified = "verified" if store.verified else "NOT VERIFIED: may be other images than published"
    say(f"recipe   {recipe.name}")
    say(f"model    {name}: {parameters_in_words(setup)}")
    say(
        f"data     {store.dataset}: {len(data.train):,}{held_out} train, {len(data.final):,} "
        f"validation, {data.num_classes} classes of {data.image_size} px, {verified}"
    )
    if recipe.data.holdout and (lost := data.train.empty_classes):
        say(
            f"note     data.holdout = {recipe.data.holdout} leaves no training images of "
            f"{first_few(lost)}"
        )
    say(
        f"devices  {devices.backend} {version(devices.backend)} on {devices}, "
        f"{recipe.train.dtype}, Keras {keras.__version__}"
    )
    say(
        f"steps    {stream.steps_per_epoch // num_parts:,} x {recipe.train.epochs} epochs of "
        f"{recipe.data.batch_size} images" + (f" in {num_parts} parts" if num_parts > 1 else "")
    )
    if recipe.smaller_sizes:
        say(f"sizes    {stages_in_words(recipe.size_stages)}")
    if isinstance(recipe.schedule, StepOptions) and recipe.schedule.epochs:
        first = min(recipe.schedule.epochs)
        if first >= recipe.train.epochs:
            say(
                f"note     the rate does not fall: schedule.epochs begins with {first:g}, and the "
                f"run has {recipe.train.epochs} epochs"
            )
    for step in stream.inexact_steps:
        say(
            f"augment  {step.op} draws its own random numbers: this run can be neither repeated "
            "nor resumed bit for bit"
        )
    if state.has_trained:
        say(f"resumes  in epoch {state.epoch + 1} after step {state.step}")


def parameters_in_words(setup: TrainingSetup) -> str:
    """Returns "308,874 parameters", and how many of them train if some are frozen."""
    num_trained = count_parameters(setup.model)
    total = f"{num_trained + setup.frozen.num_parameters:,} parameters"
    return f"{total}, of which {num_trained:,} train" if setup.frozen.layers else total


def stages_in_words(stages: Sequence[SizeStage]) -> str:
    """Returns "32 px in epochs 1 to 4, then 64 px in epoch 5"."""
    words = []
    for stage in stages:
        first, last = stage.first_epoch + 1, stage.end_epoch
        epochs = f"epochs {first} to {last}" if last > first else f"epoch {first}"
        words.append(f"{stage.image_size} px in {epochs}")
    return ", then ".join(words)


def finish(trainer: Trainer, peak_memory_mb: float | None) -> None:
    """Ships the last weights, loads and scores the model files, and writes metrics.json."""
    run, setup, state = trainer.run, trainer.setup, trainer.state
    num_epochs, cluster = len(state.history), trainer.cluster
    cluster.from_writer(partial(trainer.ship_copy, run.model, num_epochs))
    cluster.wait_for_file(run.model)
    training_seconds = in_tenths(trainer.clock.seconds)
    score = partial(
        score_file, data=setup.data, devices=setup.devices, views=setup.recipe.evaluation.views
    )
    model_score = score(run.model)
    if state.best is None:
        best_score = replace(model_score, epoch=num_epochs)
    else:
        cluster.wait_for_file(run.best)
        is_same = have_same_network(run.best, run.model)  # as if the last epoch was the best
        best_score = replace(model_score if is_same else score(run.best), **vars(state.best))
    metrics = Metrics(
        **vars(describe_scores(setup.recipe, setup.data, setup.devices)),
        epochs=num_epochs,
        seconds=round(sum(row.seconds for row in state.history), 1),
        training_seconds=training_seconds,
        peak_memory_mb=peak_memory_mb,
        model=model_score,
        best=best_score,
    )
    cluster.from_writer(partial(write_results, run, setup, state, metrics))
    num_classes = setup.data.train.num_classes
    images = scored_images(metrics.dataset, metrics.split, model_score.count, num_classes)
    say(
        f"{run.model}: top1 {model_score.top1:.2f} %, top5 {model_score.top5:.2f} %, loss "
        f"{model_score.loss:.4f} on {images}"
        f"{'' if metrics.verified else ' (NOT VERIFIED data)'}, from the file"
    )


def write_results(run: Run, setup: TrainingSetup, state: RunState, metrics: Metrics) -> None:
    """Writes what a finished run has beside its model file; metrics.json comes last."""
    if state.best is None:
        write_atomic(run.best, run.model.read_bytes())
    write_history(run.history_file, state)
    write_atomic(run.classes_file, classes_text(setup.data.final.class_names))
    # A score omits fields that are None; at the top they are null, which means "not measured".
    content = to_json(metrics) | to_json(metrics, omit_none=True)
    write_json(run.metrics_file, content)
