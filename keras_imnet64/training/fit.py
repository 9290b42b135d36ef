"""The hub: from a recipe to a trained, shipped and scored model. Reads top to bottom.

    recipe -> data -> model -> Model.fit with a checkpoint each epoch -> ship -> score the file

The same call on a run folder that is not finished goes on from its newest checkpoint.
"""

import contextlib
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from keras_imnet64.backend import take_devices
from keras_imnet64.data.augment import check_augment
from keras_imnet64.data.datasets import open_dataset
from keras_imnet64.data.pipeline import TrainingStream
from keras_imnet64.data.selection import Selection, first_classes, select, split_holdout
from keras_imnet64.errors import RunFailed, Stopped, UserError
from keras_imnet64.evaluation.evaluate import (
    check_model_fits,
    make_scorer,
    score,
    scoring_batch_size,
)
from keras_imnet64.evaluation.metrics import accuracy_metrics
from keras_imnet64.models import build_model
from keras_imnet64.models.init import initialize, seed_generators
from keras_imnet64.models.ship import fill, load_model, plain_twin, ship, warm_start
from keras_imnet64.recipe import difference, load_recipe
from keras_imnet64.runs import (
    Run,
    check_folder,
    create_run,
    lock,
    set_aside,
    write_atomic,
    write_csv,
    write_json,
)
from keras_imnet64.training.callbacks import COLUMNS, EpochEnd, Position, StopRequest
from keras_imnet64.training.loss import CrossEntropy, add_l2
from keras_imnet64.training.optim import averaged_weights, make_optimizer, make_schedule
from keras_imnet64.training.parallel import jit_compile, set_batch_norm
from keras_imnet64.training.progress import Progress, say
from keras_imnet64.training.state import (
    list_checkpoints,
    load_checkpoint,
    variables_by_path,
    write_state,
)


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
        recipe: a `Recipe`.
        out_dir: the run folder.
        model: a functional Keras model of your own, pixels [B, H, W, 3] -> logits [B, K], in place
            of the recipe's; it is trained from the weights it has. On several devices build it
            within `devices.scope()`.
        callbacks: Keras callbacks of your own, called after ours; validation is in `history`.
        data_dir, cache_dir: where data sets and their stores lie, see `datasets.open_dataset`.
        devices: what `take_devices` gave; None takes all.
        fresh: begin anew; a run that is in the folder is renamed and kept.
        pack_progress: called as (description, done, total) while a data set is packed.

    Returns:
        Run: with `metrics` and `history`.

    Raises:
        UserError: the recipe cannot be trained here.
        RunFailed: the loss is not finite; memory or disk ran out.
        Stopped: a signal came; the state is saved and the same call goes on.
    """
    check_run(recipe, out_dir, fresh)
    check_training(recipe)
    devices = devices or take_devices()
    parts = recipe.train.accumulate_steps
    devices.check_batch_size(
        recipe.data.batch_size // parts,
        "data.batch_size / train.accumulate_steps" if parts > 1 else "data.batch_size",
    )
    with sentences(out_dir), contextlib.ExitStack() as stack:
        stack.enter_context(devices.scope())
        data = load_data(recipe, data_dir, cache_dir, pack_progress)
        stream = make_stream(recipe, data)
        model = make_model(recipe, data, model, warm=fresh or not has_begun(out_dir))
        plain = plain_twin(model)
        metrics = compile_for_training(model, recipe, stream, devices)
        variables = variables_by_path(model, metrics)

        run = claim(recipe, out_dir, fresh, stack)
        progress = resume(run, variables)
        check_same_data(run, data)
        introduce(recipe, data, model, devices, stream, progress)
        write_environment(run, data, devices, progress)

        info = model_info_of(recipe, data)
        stop = StopRequest()
        bar = Progress(
            epochs=recipe.train.epochs,
            steps_per_epoch=stream.steps_per_epoch,
            batch_size=stream.batch_size,
            rate_at=rate_at(model.optimizer, stream, recipe, progress),
        )
        position = Position(
            stream,
            bar,
            stop,
            epoch=progress["epoch"],
            step=progress["step"],
            metrics={p: v for p, v in variables.items() if p.startswith("metrics/")},
            metric_state=progress.pop("metric_state", {}),
        )
        epoch_end = EpochEnd(
            run,
            recipe,
            plain=plain,
            scorer=make_scorer(plain),
            validation=data.validation,
            scoring_batch_size=scoring_batch_size(devices),
            variables=variables,
            position=position,
            info=info,
            progress=progress,
        )
        stop.model = model
        with stop.listening():
            train(model, stream, recipe, progress, [position, epoch_end, *callbacks, bar])
        if stop.requested or progress["step"]:
            done = f"in epoch {progress['epoch'] + 1} after {progress['step']} steps"
            if not progress["step"]:
                done = f"after epoch {progress['epoch']}"
            raise Stopped(
                f"stopped {done}; the state is saved in {run.path}, and the same command goes on "
                "from there"
            )
        finish(run, recipe, data, devices, model, plain, info, progress)
    return run


def has_begun(out_dir):
    return Run(Path(out_dir)).recipe_file.exists()


def check_run(recipe, out_dir, fresh):
    """Refuse, before any work, a folder that this recipe cannot train into. Touches nothing."""
    run = check_folder(out_dir)
    if fresh or not has_begun(out_dir):
        return
    changes = difference(load_recipe(run.recipe_file), recipe)
    if changes:
        raise UserError(
            f"{run.path} holds a run of another recipe ({'; '.join(changes[:4])}): give this one "
            "another --name, or begin anew with --fresh"
        )
    if run.is_finished:
        raise UserError(
            f"the run in {run.path} is finished and is never overwritten: give another --name, or "
            "begin anew with --fresh, which keeps the old one under another name"
        )


def check_training(recipe):
    """Refuse, before any data is read, an optimizer or schedule that does not work."""
    make_optimizer_of(recipe, steps_per_epoch=1)


def claim(recipe, out_dir, fresh, stack):
    """The run folder, locked until `stack` ends, with the recipe in it."""
    if fresh and has_begun(out_dir):
        lock(create_run(out_dir)).close()  # nobody trains into it
        say(f"the run that was in {out_dir} is kept as {set_aside(out_dir)}")
    run = create_run(out_dir)
    stack.enter_context(lock(run))
    write_atomic(run.recipe_file, recipe.to_toml())
    return run


def check_same_data(run, data):
    """A run goes on with the pictures that it was begun with, or not at all."""
    if not run.environment_file.exists():
        return
    begun = run.environment["digest"]
    changed = [split for split, digest in digests(data).items() if digest != begun[split]]
    if changed:
        raise UserError(
            f"{run.path} was begun with other {changed[0]} pictures than those that are here as "
            f"{run.environment['dataset']}: bring those back, or begin anew with --fresh"
        )


def digests(data):
    return {"train": data.train.store.digest, "validation": data.final.store.digest}


@contextlib.contextmanager
def sentences(out_dir):
    """Turn a full disk and its like into a sentence."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RunFailed(
            f"{error.strerror or error}{where}; what {out_dir} held before is intact, and the same "
            "command goes on from it"
        ) from error


@dataclass(frozen=True)
class Data:
    """The images of a run: to train on, to validate epochs on, and to score the result on."""

    train: Selection
    validation: Selection  # the holdout where there is one, else `final`
    final: Selection
    mean_image: np.ndarray  # float32 [H, W, 3], 0..255
    channel_mean: np.ndarray
    channel_std: np.ndarray

    @property
    def num_classes(self):
        return self.train.num_classes

    @property
    def image_size(self):
        return self.train.image_size


def load_data(recipe, data_dir=None, cache_dir=None, pack_progress=None):
    """Open both splits of the recipe's data set and choose the images that it uses."""
    where = {"data_dir": data_dir, "cache_dir": cache_dir, "progress": pack_progress}
    stores = [
        open_dataset(recipe.data.dataset, split, in_memory=recipe.data.in_memory, **where)
        for split in ("train", "validation")
    ]
    classes = recipe.data.classes
    wnids = first_classes(stores[0], classes) if classes else None
    train, final = (select(store, wnids) for store in stores)
    validation = final
    if recipe.data.holdout:
        train, validation = split_holdout(train, recipe.data.holdout)
    if recipe.selection == "validation":
        validation = final
    moments = train.moments()
    return Data(
        train, validation, final, moments.mean_image, moments.channel_mean, moments.channel_std
    )


def make_stream(recipe, data):
    """The training batches: a batch of the recipe, or the parts that are accumulated to one."""
    parts = recipe.train.accumulate_steps
    samples = len(data.train) * (2 if recipe.data.mirror == "both" else 1)
    whole = samples // recipe.data.batch_size
    steps = recipe.data.steps_per_epoch or whole
    if not whole:
        raise UserError(
            f"data.batch_size must be at most {samples}, the samples of an epoch; "
            f"received {recipe.data.batch_size}"
        )
    if steps > whole:
        raise UserError(
            f"data.steps_per_epoch must be at most {whole}, the whole batches of an epoch; "
            f"received {steps}"
        )
    return TrainingStream(
        data.train,
        batch_size=recipe.data.batch_size // parts,
        seed=recipe.train.seed,
        mirror=recipe.data.mirror,
        augmentation=[
            check_augment(section.op, section.options, data.image_size)
            for section in recipe.augment
        ],
        steps_per_epoch=steps * parts,
        mean_image=np.round(data.mean_image).astype("uint8"),
    )


def make_model(recipe, data, own=None, warm=True):
    """The training model with its initial weights; `warm`: those of a file, if the recipe says."""
    if own is not None:
        check_model_fits(own, data.train, "your model")
        seed_generators(own, recipe.train.seed)
        return own
    model = build_model(
        recipe.model.name,
        image_size=data.image_size,
        num_classes=data.num_classes,
        normalization=resolve_normalization(recipe.model.normalization, data),
        dtype=recipe.train.dtype,
        **recipe.model.options,
    )
    initialize(model, recipe.train.seed)
    if recipe.train.initial_weights and warm:
        for skipped in warm_start(model, recipe.train.initial_weights, data.train.wnids):
            say(f"not taken from {recipe.train.initial_weights}: {skipped}")
    return model


def resolve_normalization(normalization, data):
    """A recipe's word as numbers on the 0..1 scale, measured on the training images."""
    if normalization == "mean_image":
        return {"mean": data.mean_image / 255, "std": 1.0}
    if normalization == "dataset":
        return {"mean": data.channel_mean / 255, "std": data.channel_std / 255}
    return normalization if normalization == "imagenet" else normalization.model_dump()


def compile_for_training(model, recipe, stream, devices):
    """Optimizer, loss, metrics and compiler; returns the metrics whose state is the run's."""
    set_batch_norm(model, recipe.train.batch_norm, devices)
    if recipe.loss.l2:
        add_l2(model, recipe.loss.l2)
    steps = stream.steps_per_epoch // recipe.train.accumulate_steps
    optimizer = make_optimizer_of(recipe, steps)
    accuracies = accuracy_metrics()
    model.compile(
        optimizer,
        CrossEntropy(recipe.loss.label_smoothing),
        metrics=accuracies,
        jit_compile=jit_compile(recipe.train.xla, devices),
    )
    optimizer.build(model.trainable_variables)
    return [model._loss_tracker, *accuracies]


def make_optimizer_of(recipe, steps_per_epoch):
    schedule = make_schedule(
        recipe.schedule.name,
        learning_rate=recipe.optimizer.learning_rate,
        steps_per_epoch=steps_per_epoch,
        num_epochs=recipe.train.epochs,
        warmup_epochs=recipe.schedule.warmup_epochs,
        **recipe.schedule.options,
    )
    return make_optimizer(
        recipe.optimizer.name,
        schedule,
        weight_decay=recipe.optimizer.weight_decay,
        clip_norm=recipe.optimizer.clip_norm,
        ema=recipe.train.ema or None,
        accumulate_steps=recipe.train.accumulate_steps,
        **recipe.optimizer.options,
    )


def resume(run, variables):
    """Fill the variables from the newest checkpoint, if any; returns the run's progress."""
    checkpoints = list_checkpoints(run.checkpoints)
    if not checkpoints:
        plateau = {"best": None, "wait": 0, "scale": 1.0}
        return {"epoch": 0, "step": 0, "history": [], "best": None, "plateau": plateau}
    state, progress = load_checkpoint(checkpoints[-1])
    metric_state = {p: a for p, a in state.items() if p.startswith("metrics/")}
    if not progress["step"]:  # between epochs; Keras would reset only the metrics it has built
        metric_state = {path: np.zeros_like(array) for path, array in metric_state.items()}
    write_state(variables, state | metric_state, checkpoints[-1])
    progress["metric_state"] = metric_state
    say(f"going on from {checkpoints[-1]}")
    return progress


def train(model, stream, recipe, progress, callbacks):
    """Keras' loop, from where the run is to its last epoch."""
    if progress["epoch"] >= recipe.train.epochs or progress.get("stopped_early"):
        return
    try:
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


def finish(run, recipe, data, devices, model, plain, info, progress):
    """Ship the last weights, score the files as anyone would load them, and write metrics.json."""
    fill(plain, model, averaged_weights(model.optimizer))
    epochs = len(progress["history"])
    ship(plain, run.model, info | {"epoch": epochs})
    model_score = score_file(run.model, data.final, devices)
    if progress["best"] is None:
        write_atomic(run.best, run.model.read_bytes())
        best_score = model_score | {"epoch": epochs}
    else:
        best_score = score_file(run.best, data.final, devices) | progress["best"]
    metrics = {
        "recipe": recipe.name,
        "backend": devices.backend,
        "dataset": data.final.store.dataset,
        "split": data.final.store.split,
        "verified": bool(data.final.store.verified and data.train.store.verified),
        "selected_on": recipe.selection,
        "epochs": epochs,
        "seconds": round(sum(row["seconds"] for row in progress["history"]), 1),
        "model.keras": model_score,
        "best.keras": best_score,
    }
    write_csv(run.history_file, COLUMNS, progress["history"])
    write_atomic(run.classes_file, "".join(f"{n}\n" for n in data.final.class_names))
    write_json(run.metrics_file, metrics)
    say(
        f"{run.model}: top1 {model_score['top1']:.2f} %, top5 {model_score['top5']:.2f} %, loss "
        f"{model_score['loss']:.4f} on all {model_score['count']} images of {metrics['dataset']} "
        f"{metrics['split']}{'' if metrics['verified'] else ' (NOT VERIFIED data)'}, from the file"
    )


def score_file(path, selection, devices):
    return score(make_scorer(load_model(path)), selection, scoring_batch_size(devices))


def rate_at(optimizer, stream, recipe, progress):
    """(epoch, step) -> learning rate, without touching variables that a step may hold."""
    parts = recipe.train.accumulate_steps

    def rate(epoch, step):
        update = (epoch * stream.steps_per_epoch + step) // parts
        return float(optimizer._learning_rate(update)) * progress["plateau"]["scale"]

    return rate


def introduce(recipe, data, model, devices, stream, progress):
    """Say what is about to happen: model, data and its state, devices, steps."""
    options = " ".join(f"{k}={v}" for k, v in recipe.model.options.items())
    count = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    store, parts = data.train.store, recipe.train.accumulate_steps
    held_out = f" + {len(data.validation)} held out" if recipe.data.holdout else ""
    state = "verified" if store.verified else "NOT VERIFIED: not to be called by the set's name"
    say(f"recipe   {recipe.name}")
    say(f"model    {recipe.model.name} {options}: {count:,} parameters")
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
    if progress["epoch"] or progress["step"]:
        say(f"         from epoch {progress['epoch'] + 1}, step {progress['step']}")


def write_environment(run, data, devices, progress):
    """environment.json: the data's identity, and one entry for each process that trained."""
    packages = ("keras", "tensorflow", "jax", "tensorflow-datasets", "numpy", "keras-imnet64")
    entry = {
        "from_epoch": progress["epoch"],
        "from_step": progress["step"],
        "backend": devices.backend,
        "devices": list(devices.names),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in packages},
    }
    earlier = []
    if run.environment_file.exists():
        earlier = run.environment["processes"]
    stores = {"train": data.train.store, "validation": data.final.store}
    write_json(
        run.environment_file,
        {
            "dataset": data.train.store.dataset,
            "verified": {split: bool(store.verified) for split, store in stores.items()},
            "digest": digests(data),
            "processes": [*earlier, entry],
        },
    )


def model_info_of(recipe, data):
    """What a model file says about itself, see `models.ship.model_info`."""
    return {
        "wnids": data.train.wnids,
        "class_names": data.train.class_names,
        "image_size": data.image_size,
        "dataset": data.train.store.dataset,
        "verified": bool(data.train.store.verified),
        "recipe": recipe.model_dump(exclude_none=True, exclude={"reference", "measured"}),
    }
