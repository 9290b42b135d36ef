"""Optimizers and learning-rate schedules: two tables, and what Keras' optimizers need mended.

`make_schedule` and `make_optimizer` read the tables SCHEDULES and OPTIMIZERS at the end of this
file; a new one is a row there. Every optimizer is the Keras class with `_Mended` in front of it.
When to lower the rate on a plateau is a callback's business: it assigns `learning_rate_scale`.

A step here is one update of the weights, `optimizer.iterations`. With `accumulate_steps = k` that
is every k-th batch.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import keras
from keras import ops

from keras_imnet64.core.errors import UserError, nearest

LARGEST = 1e30  # of any number here: float32 holds its multiples


def make_schedule(
    name, *, learning_rate, steps_per_epoch, num_epochs, warmup_epochs=0.0, **options
):
    """The learning rate as a function of the optimizer's step.

    Args:
        name: a key of SCHEDULES.
        learning_rate: the peak, above 0.
        steps_per_epoch: weight updates per epoch; a fraction is allowed, since accumulation need
            not divide an epoch.
        num_epochs: length of the run, which `cosine` and `one_cycle` spread over; may be
            fractional. (`epochs` is an option of `step`.)
        warmup_epochs: with w = round(warmup_epochs * steps_per_epoch), the rate of step s < w
            (counted from 0) is multiplied by (s + 1) / w: the first step has 1/w of the peak,
            step w - 1 all of it.
        **options: those of the row, see `_step`, `_cosine`, `_one_cycle`.

    Returns:
        Schedule: scalar integer step -> float32 scalar, in eager code, tf.function and jit.

    Raises:
        UserError: for an unknown name or option, or a value out of range.
    """
    options = _checked_options("schedule", name, SCHEDULES, options)
    in_range = 0 < learning_rate <= LARGEST
    _require(in_range, f"learning_rate must be above 0, at most {LARGEST}", learning_rate)
    _require(steps_per_epoch > 0, "steps_per_epoch must be above 0", steps_per_epoch)
    _require(num_epochs > 0, "the run's epochs must be above 0", num_epochs)
    fits = 0 <= warmup_epochs < num_epochs
    _require(fits, f"warmup_epochs must lie below the run's {num_epochs} epochs", warmup_epochs)
    num_steps = num_epochs * steps_per_epoch
    _require(num_steps < 2**31, "the run must have fewer than 2^31 steps", num_steps)
    SCHEDULES[name].check(warmup_epochs=warmup_epochs, **options)
    return Schedule(name, learning_rate, steps_per_epoch, num_epochs, warmup_epochs, options)


def make_optimizer(
    name, schedule, *, weight_decay=0.0, clip_norm=None, ema=None, accumulate_steps=1, **options
):
    """A Keras optimizer with a rate scale, exact clipping and averaging, and decay of kernels only.

    Under `tf.distribute` call it inside the strategy's scope, as with any Keras optimizer.

    Args:
        name: a key of OPTIMIZERS.
        schedule: what `make_schedule` returns.
        weight_decay: decoupled: w <- w - rate * weight_decay * w before each update, with the
            scheduled and scaled rate, for variables of rank 2 and above (not norms, not biases).
        clip_norm: largest global L2 norm of the whole batch's gradient; None does not clip.
        ema: momentum m of the weights' average, a <- m * a + (1 - m) * w after each update
            (0.9999, say); None keeps no average. Read it with `averaged_weights`.
        accumulate_steps: batches whose gradients are averaged into one update.
        **options: those of the row; they bear Keras' names.

    Returns:
        keras.optimizers.Optimizer named "optimizer", with `learning_rate_scale`, a float32 scalar
        variable by which the schedule's value is multiplied.

    Raises:
        UserError: for an unknown name or option, a value out of range, or accumulation under a
            tf.distribute strategy.
    """
    options = _checked_options("optimizer", name, OPTIMIZERS, options)
    _check_ranges(name, options)
    in_range = 0 <= weight_decay <= LARGEST
    _require(in_range, f"weight_decay must lie in 0..{LARGEST}", weight_decay)
    in_range = clip_norm is None or 0 < clip_norm <= LARGEST
    _require(in_range, f"clip_norm must be above 0, at most {LARGEST}", clip_norm)
    _require(ema is None or 0 < ema < 1, "ema must lie between 0 and 1, such as 0.9999", ema)
    whole = isinstance(accumulate_steps, int) and accumulate_steps >= 1
    _require(whole, "accumulate_steps must be a whole number from 1", accumulate_steps)
    _refuse_accumulation_under_strategy(accumulate_steps)
    if name == "muon":
        options["adam_weight_decay"] = float(weight_decay)
    try:
        return OPTIMIZERS[name].keras_class(
            learning_rate=schedule,
            weight_decay=float(weight_decay),
            global_clipnorm=clip_norm,
            use_ema=ema is not None,
            ema_momentum=ema or 0.99,
            gradient_accumulation_steps=accumulate_steps if accumulate_steps > 1 else None,
            name="optimizer",
            **options,
        )
    except ValueError as error:
        raise UserError(f"optimizer {name}: {error}") from error


def averaged_weights(optimizer):
    """The running averages of the trainable variables, as {variable.path: keras.Variable}.

    Empty without `ema` and before the optimizer is built. Keras creates the averages as zeros and
    after the first update makes them equal to the weights, so no correction of a start at zero is
    needed; until then (with accumulation, while the first update gathers) they follow the weights.
    Under JAX call `model.jax_state_sync()` before reading.
    """
    if not (optimizer.built and optimizer.use_ema):
        return {}
    pairs = zip(
        optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
    )
    return {variable.path: average for variable, average in pairs if average is not None}


class _Mended:
    """What stands in front of each Keras optimizer class (Keras 3.15), method by method."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.learning_rate_scale = self.add_variable(
            shape=(),
            initializer="ones",
            dtype="float32",
            aggregation="only_first_replica",
            name="learning_rate_scale",
        )

    def build(self, variables):
        """Create the state; its paths are the checkpoint's keys, so none may occur twice.

        Keras turns "a/b/kernel" into "a_b_kernel_momentum", which "a_b/kernel" gives too.
        """
        super().build(variables)
        paths = [v.path for v in self.variables]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        _require(
            not twice, "layer names must give each optimizer variable a path of its own", twice
        )

    def _get_current_learning_rate(self):
        """Keras passes `_iterations`, which counts batches; the schedule counts updates."""
        return self._learning_rate(self.iterations) * self.learning_rate_scale

    def _use_weight_decay(self, variable):
        return len(variable.shape) >= 2 and super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables):
        if self.weight_decay:
            super()._apply_weight_decay(variables)

    def _clip_gradients(self, grads):
        """Clip the global batch's gradient: Keras clips each replica's part before the sum."""
        if self._reduces_before_clipping():
            import tensorflow as tf

            context = tf.distribute.get_replica_context()
            grads = context.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
        return super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        if self._reduces_before_clipping():
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def _reduces_before_clipping(self):
        if self.global_clipnorm is None or keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return context is not None and context.num_replicas_in_sync > 1

    def _update_model_variables_moving_average(self, trainable_variables):
        """Move the averages once per update: Keras moves them with every accumulated batch."""
        keep = ops.cast(self._average_momentum(), "float32")
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is not None:
                m = ops.cast(keep, variable.dtype)
                average.assign(m * average + (1 - m) * variable)

    def _average_momentum(self):
        """0 until the first update is done, then `ema_momentum` on an update and 1 between."""
        k = self.gradient_accumulation_steps or 1
        is_update = ops.equal((self._iterations + 1) % k, 0)
        momentum = ops.where(is_update, self.ema_momentum, 1.0)
        return ops.where(ops.equal(self.iterations, 0), 0.0, momentum)

    def finalize_variable_values(self, var_list):
        """Leave the weights alone: at its end `fit` would put the averages in their place.

        A run that stops, by a signal too, must save the weights that it would go on from; what
        ships reads `averaged_weights`.
        """


class SGD(_Mended, keras.optimizers.SGD):
    """v <- momentum * v - rate * g, w <- w + v; with Nesterov w <- w + momentum * v - rate * g."""


class AdamW(_Mended, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""


class Muon(_Mended, keras.optimizers.Muon):
    """Muon (kellerjordan.github.io/posts/muon) for matrices and convolutions, Adam for all else.

    Keras' class gives every variable that is not rank 2 to Adam, which in a convolutional network
    is nearly all of it. Here a kernel [kh, kw, C_in, C_out] with C_out > 1 is orthogonalised as
    the matrix [kh*kw*C_in, C_out], as in the author's code. Adam keeps norms, biases, embeddings,
    depthwise kernels, rank 3, and layers whose path matches `exclude_layers`.
    """

    def _should_use_adamw(self, variable):
        shape = variable.shape
        if not (len(shape) == 2 or (len(shape) == 4 and shape[-1] > 1)):
            return True
        if self.exclude_embeddings and "embedding" in variable.path.lower():
            return True
        return any(re.search(layer, variable.path) for layer in self.exclude_layers)

    def zeropower_via_newtonschulz5(self, x, steps):
        return ops.reshape(super().zeropower_via_newtonschulz5(_as_matrix(x), steps), x.shape)

    def lr_adjust(self, x):
        return ops.reshape(super().lr_adjust(_as_matrix(x)), x.shape)


def _as_matrix(x):
    return ops.reshape(x, (-1, x.shape[-1]))


def _refuse_accumulation_under_strategy(accumulate_steps):
    """Keras would call merge_call inside a conditional, which tf.distribute cannot do."""
    if accumulate_steps == 1 or keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.distribute.has_strategy():
        raise UserError(
            "accumulate_steps does not work with tensorflow on several devices; received "
            f"{accumulate_steps}, use --devices 1, --backend jax or a smaller data.batch_size"
        )


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """One row of SCHEDULES with its numbers, times the warm-up of `make_schedule`."""

    def __init__(self, name, learning_rate, steps_per_epoch, num_epochs, warmup_epochs, options):
        self.name = name
        self.learning_rate = learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.num_epochs = num_epochs
        self.warmup_epochs = warmup_epochs
        self.options = options
        self.num_steps = self.step_at(num_epochs)
        self.num_warmup_steps = self.step_at(warmup_epochs)

    def step_at(self, epoch):
        """The step with which (fractional) `epoch` begins: a whole number."""
        return min(round(epoch * self.steps_per_epoch), 2**31 - 1)

    def __call__(self, step):
        step = ops.cast(step, "int32")
        rate = SCHEDULES[self.name].rate(step, self, **self.options)
        if self.num_warmup_steps == 0:
            return rate
        warmup = ops.cast(step + 1, "float32") / self.num_warmup_steps
        return rate * ops.where(step < self.num_warmup_steps, warmup, 1.0)

    def get_config(self):
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "num_epochs": self.num_epochs,
            "warmup_epochs": self.warmup_epochs,
            "options": self.options,
        }


def _constant(step, schedule, **for_the_callback):
    return ops.convert_to_tensor(schedule.learning_rate, dtype="float32")


def _step(step, schedule, epochs, factor):
    """learning_rate * factor^n, n = how many `epochs` have begun: exact, by comparing integers."""
    rates = [schedule.learning_rate * factor**n for n in range(len(epochs) + 1)]
    begun = [ops.cast(step >= schedule.step_at(epoch), "int32") for epoch in epochs]
    return ops.take(ops.convert_to_tensor(rates, dtype="float32"), sum(begun))


def _cosine(step, schedule, final_factor, final_learning_rate):
    """Half a cosine (arXiv:1608.03983) from the peak at the warm-up's end to the final rate.

    The final rate, `final_learning_rate` or `final_factor * learning_rate`, belongs to the step
    after the last one, as in optax and torch.
    """
    peak, start = schedule.learning_rate, schedule.num_warmup_steps
    final = peak * final_factor if final_learning_rate is None else final_learning_rate
    return _half_cosine(step, start, schedule.num_steps, peak, final)


def _one_cycle(step, schedule, div_factor, final_div_factor, warmup_fraction):
    """Half a cosine up to the peak, half a one down (arXiv:1708.07120), as torch's OneCycleLR.

    From peak / div_factor at step 0 to the peak at step round(warmup_fraction * steps) - 1, then to
    peak / div_factor / final_div_factor at the last step.
    """
    peak, last = schedule.learning_rate, schedule.num_steps - 1
    top = max(0, round(warmup_fraction * schedule.num_steps) - 1)
    first = peak / div_factor
    up = _half_cosine(step, 0, top, first, peak)
    down = _half_cosine(step, top, last, peak, first / final_div_factor)
    return ops.where(step < top, up, down)


def _half_cosine(step, start, end, value_at_start, value_at_end):
    """Float32; cos^2(x/2) is (1 + cos x) / 2 without its cancellation at the end."""
    part = ops.cast(step - start, "float32") / max(1, end - start)
    weight = ops.square(ops.cos(ops.clip(part, 0.0, 1.0) * (math.pi / 2)))
    return value_at_end + (value_at_start - value_at_end) * weight


def _check_nothing(**options):
    pass


def _check_plateau(factor, patience, min_delta, **others):
    _require(0 < factor < 1, "schedule plateau: factor must lie between 0 and 1", factor)
    _require(patience >= 1, "schedule plateau: patience must be 1 or more epochs", patience)
    _require(min_delta >= 0, "schedule plateau: min_delta must be 0 or above", min_delta)


def _check_step(epochs, factor, **others):
    numbers = all(isinstance(e, int | float) and not isinstance(e, bool) for e in epochs)
    _require(numbers, "schedule step: epochs must be a list of numbers", epochs)
    increasing = epochs and epochs[0] > 0 and all(a < b for a, b in pairwise(epochs))
    _require(increasing, "schedule step: epochs must be an increasing list", epochs)
    _require(0 < factor <= 1, "schedule step: factor must be above 0 and at most 1", factor)


def _check_cosine(final_factor, final_learning_rate, **others):
    both = final_factor and final_learning_rate is not None
    message = "schedule cosine: give final_factor or final_learning_rate, not both"
    _require(not both, message, (final_factor, final_learning_rate))
    _require(0 <= final_factor <= 1, "schedule cosine: final_factor must lie in 0..1", final_factor)
    in_range = final_learning_rate is None or final_learning_rate >= 0
    message = "schedule cosine: final_learning_rate must be 0 or above"
    _require(in_range, message, final_learning_rate)


def _check_one_cycle(warmup_epochs, div_factor, final_div_factor, warmup_fraction):
    message = (
        "schedule one_cycle: warmup_fraction takes the place of warmup_epochs, which must be 0"
    )
    _require(warmup_epochs == 0, message, warmup_epochs)
    in_range = 0 < warmup_fraction < 1
    message = "schedule one_cycle: warmup_fraction must lie between 0 and 1"
    _require(in_range, message, warmup_fraction)
    factors = (div_factor, final_div_factor)
    message = "schedule one_cycle: div_factor and final_div_factor must be 1 or above"
    _require(min(factors) >= 1, message, factors)


def _check_ranges(name, options):
    """The options of all optimizers that bear these names."""
    for key in ("momentum", "beta_1", "beta_2", "adam_beta_1", "adam_beta_2"):
        in_range = 0 <= options.get(key, 0) < 1
        _require(in_range, f"optimizer {name}: {key} must be at least 0, below 1", options.get(key))
    for key in ("epsilon", "rms_rate", "adam_lr_ratio"):
        in_range = options.get(key, 1) > 0
        _require(in_range, f"optimizer {name}: {key} must be above 0", options.get(key))
    steps = options.get("ns_steps", 1)
    whole = isinstance(steps, int) and 1 <= steps <= 100
    _require(whole, f"optimizer {name}: ns_steps must be a whole number from 1 to 100", steps)
    for pattern in options.get("exclude_layers", []):
        _require(
            _is_pattern(pattern),
            f"optimizer {name}: exclude_layers must be a list of regular expressions",
            repr(pattern),
        )


def _is_pattern(text):
    try:
        return isinstance(text, str) and re.compile(text) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def _require(condition, sentence, received):
    if not condition:
        raise UserError(f"{sentence}; received {received}")


def _checked_options(kind, name, table, options):
    """The row's defaults with `options` over them, each of its default's kind."""
    if name not in table:
        raise UserError(f'there is no {kind} "{name}"; {nearest(name, table)}')
    known = table[name].options
    for key, value in options.items():
        if key not in known:
            remedy = nearest(key, known) if known else "it takes none"
            raise UserError(f'{kind} {name} has no option "{key}"; {remedy}')
        wanted = _kind(0.0 if known[key] is None else known[key])
        right = value is known[key] or _kind(value) == wanted
        _require(right, f"{kind} {name}: {key} must be a {wanted}", repr(value))
        fits = wanted != "number" or value is None or abs(value) <= LARGEST
        _require(fits, f"{kind} {name}: {key} must be a number up to {LARGEST}", value)
    merged = known | options
    return {k: float(v) if isinstance(known[k], float) else v for k, v in merged.items()}


def _kind(value):
    """What to call a value in a message."""
    kinds = {int: "number", float: "number", bool: "true or false", list: "list", str: "word"}
    return kinds.get(type(value), type(value).__name__)


@dataclass(frozen=True)
class OptimizerRow:
    """A class and the options that it takes with their defaults (Keras' own unless noted)."""

    keras_class: type
    options: dict


@dataclass(frozen=True)
class ScheduleRow:
    """`rate(step, schedule, **options)` -> float32, its options' defaults, and their check."""

    rate: Callable
    options: dict
    check: Callable = _check_nothing


OPTIMIZERS = {
    "sgd": OptimizerRow(SGD, {"momentum": 0.9, "nesterov": False}),  # Keras: no momentum
    "adamw": OptimizerRow(AdamW, {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}),
    "muon": OptimizerRow(
        Muon,
        {
            "momentum": 0.95,
            "nesterov": True,
            "ns_steps": 5,
            "rms_rate": 0.2,  # the update's size is Adam's, so Adam's rate and decay fit
            "exclude_layers": ["(^|/)logits/"],  # Keras: none; the head is Adam's in every account
            "exclude_embeddings": True,
            "adam_lr_ratio": 1.0,
            "adam_beta_1": 0.9,
            "adam_beta_2": 0.999,
            "epsilon": 1e-7,
        },
    ),
}

SCHEDULES = {
    "constant": ScheduleRow(_constant, {}),
    "step": ScheduleRow(_step, {"epochs": [], "factor": 0.1}, _check_step),
    "cosine": ScheduleRow(
        _cosine, {"final_factor": 0.0, "final_learning_rate": None}, _check_cosine
    ),
    "one_cycle": ScheduleRow(
        _one_cycle,
        {"div_factor": 25.0, "final_div_factor": 1e4, "warmup_fraction": 0.3},
        _check_one_cycle,
    ),
    # Constant here; the options are for the callback that lowers `learning_rate_scale`.
    "plateau": ScheduleRow(
        _constant, {"factor": 0.1, "patience": 10, "min_delta": 0.0}, _check_plateau
    ),
}
