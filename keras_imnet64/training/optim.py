"""Optimizers and learning-rate schedules, with corrections of Keras' optimizers.

`make_schedule` and `make_optimizer` read the tables SCHEDULES and OPTIMIZERS at the end of this
file; `recipe.optimizers` declares the options of each row. Every optimizer is the Keras class with
`_Corrected` in front of it. A callback decides when to lower the rate on a plateau: it assigns
`learning_rate_scale`.

A step here is one update of the weights, `optimizer.iterations`. With `accumulate_steps = k` that
is every k-th batch.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any, Literal

import keras
from keras import ops

from keras_imnet64.core.errors import UserError, nearest
from keras_imnet64.core.tables import parse_table
from keras_imnet64.core.types import JsonObject, Tensor, Variable
from keras_imnet64.models.keras_private import moving_averages
from keras_imnet64.recipe.optimizers import (
    MAX_NUMBER,
    OPTIMIZER_TABLES,
    SCHEDULE_TABLES,
    GroupOptions,
    LookaheadOptions,
)
from keras_imnet64.training.groups import group_of_each


def make_schedule(
    name: str,
    *,
    learning_rate: float,
    steps_per_epoch: float,
    num_epochs: float,
    warmup_epochs: float = 0.0,
    warmup_learning_rate: float | Literal["auto"] = "auto",
    by_epoch: bool = False,
    **options: Any,  # `recipe.optimizers` says of which types
) -> "Schedule":
    """Returns the learning rate as a function of the optimizer's step.

    Args:
        name: a key of SCHEDULES.
        learning_rate: the peak, above 0.
        steps_per_epoch: weight updates per epoch; a fraction is allowed, since accumulation need
            not divide an epoch.
        num_epochs: length of the run, which all schedules but `constant`, `step` and `plateau`
            spread over; may be fractional. (`epochs` is an option of `step`.)
        warmup_epochs: with w = round(warmup_epochs * steps_per_epoch), the rate of step s < w
            (counted from 0) is multiplied by (s + 1) / w: the first step has 1/w of the peak,
            step w - 1 all of it.
        warmup_learning_rate: "auto"; or the rate r of step 0: the warm-up is then a line from r at
            step 0 to the peak at step w.
        by_epoch: whether all steps of an epoch have its rate, which is that of the schedule with
            epochs in place of steps, all of them counted from 0; needs whole numbers.
        **options: see `_step`, `_cosine`, `_one_cycle`, `_linear`, `_triangular`.

    Returns:
        Schedule: scalar integer step -> float32 scalar, in eager code, tf.function and jit.

    Raises:
        UserError: for an unknown name or option, or a value out of range.
    """
    _require_name("schedule", name, SCHEDULE_TABLES)
    values = {**options, "name": name, "warmup_epochs": warmup_epochs}
    values |= {"warmup_learning_rate": warmup_learning_rate, "by_epoch": by_epoch}
    table = parse_table(SCHEDULE_TABLES[name], values, "schedule")
    in_range = 0 < learning_rate <= MAX_NUMBER
    _require(in_range, f"learning_rate must be above 0, at most {MAX_NUMBER}", learning_rate)
    _require(steps_per_epoch > 0, "steps_per_epoch must be above 0", steps_per_epoch)
    _require(num_epochs > 0, "the run's epochs must be above 0", num_epochs)
    whole = float(steps_per_epoch).is_integer() and float(num_epochs).is_integer()
    needed = "schedule.by_epoch needs whole numbers of steps per epoch and of epochs"
    _require(whole or not by_epoch, needed, f"{steps_per_epoch} and {num_epochs}")
    table.check_warmup(learning_rate, num_epochs)
    num_steps = num_epochs * steps_per_epoch
    _require(num_steps < 2**31, "the run must have fewer than 2^31 steps", num_steps)
    return Schedule(
        name,
        learning_rate,
        steps_per_epoch,
        num_epochs,
        warmup_epochs,
        warmup_learning_rate,
        by_epoch,
        table.all_options,
    )


def make_optimizer(
    name: str,
    schedule: "Schedule",
    *,
    weight_decay: float = 0.0,
    ema: float | None = None,
    accumulate_steps: int = 1,
    **options: Any,  # `recipe.optimizers` says of which types
) -> keras.optimizers.Optimizer:
    """Returns a Keras optimizer with a rate scale, exact clipping and averaging, kernel-only decay.

    Under `tf.distribute` call it inside the strategy's scope, as with any Keras optimizer.

    Args:
        name: a key of OPTIMIZERS.
        schedule: what `make_schedule` returns.
        weight_decay: decoupled: w <- w - rate * weight_decay * w before each update, with the
            scheduled and scaled rate, for variables of rank 2 and above (not norms, not biases).
            Under `lamb` it is a part of the update instead, see `Lamb`.
        ema: momentum m of the weights' average, a <- m * a + (1 - m) * w after each update
            (such as 0.9999); None keeps no average. Read it with `averaged_weights`.
        accumulate_steps: batches whose gradients are averaged into one update.
        **options: as `recipe.optimizers` names them, `clip_norm`, `groups` and `lookahead`
            included: the largest global L2 norm of the whole batch's gradient; factors of the rate
            and the decay of some variables; slow weights, see `LookaheadOptions`.

    Returns:
        keras.optimizers.Optimizer named "optimizer", with `learning_rate_scale`, a float32 scalar
        variable by which the schedule's value is multiplied.

    Raises:
        UserError: for an unknown name or option, or a value out of range.
    """
    _require_name("optimizer", name, OPTIMIZER_TABLES)
    values = {"weight_decay": weight_decay, **options}
    values |= {"name": name, "learning_rate": schedule.learning_rate}
    table = parse_table(OPTIMIZER_TABLES[name], values, "optimizer")
    _require(ema is None or 0 < ema < 1, "ema must lie between 0 and 1, such as 0.9999", ema)
    whole = isinstance(accumulate_steps, int) and accumulate_steps >= 1
    _require(whole, "accumulate_steps must be a whole number from 1", accumulate_steps)
    arguments = table.all_options
    if name == "muon":
        arguments["adam_weight_decay"] = table.weight_decay
    try:
        return OPTIMIZERS[name](
            learning_rate=schedule,
            weight_decay=table.weight_decay,
            global_clipnorm=table.clip_norm,
            use_ema=ema is not None,
            ema_momentum=ema or 0.99,
            gradient_accumulation_steps=accumulate_steps if accumulate_steps > 1 else None,
            name="optimizer",
            groups=table.groups,
            lookahead=table.lookahead,
            **arguments,
        )
    except ValueError as error:
        raise UserError(f"optimizer {name}: {error}") from error


def is_decayed(variable: Variable) -> bool:
    """Returns whether `weight_decay` applies to a trainable variable: to no norm and no bias."""
    return len(variable.shape) >= 2


def averaged_weights(optimizer: keras.optimizers.Optimizer) -> dict[str, Variable]:
    """Returns the running averages of the trainable variables, by path of the variable.

    Empty without `ema` and before the optimizer is built. Keras creates the averages as zeros and
    after the first update makes them equal to the weights, so no correction of a start at zero is
    needed; until then (with accumulation, while the first update gathers) they follow the weights.
    Under JAX call `model.jax_state_sync()` before reading.
    """
    if not (optimizer.built and optimizer.use_ema):
        return {}
    return moving_averages(optimizer)


def slow_weights(optimizer: keras.optimizers.Optimizer) -> dict[str, Variable]:
    """Returns Lookahead's slow weights by path of the variable; empty as `averaged_weights` is.

    They are zeros until the first update. Under JAX call `model.jax_state_sync()` before reading.
    """
    if not (optimizer.built and optimizer.lookahead):
        return {}
    return dict(zip(optimizer.paths, optimizer.slow_weights, strict=True))


class _Corrected(keras.optimizers.Optimizer):
    """Corrects each Keras optimizer class (Keras 3.15), method by method.

    Adds groups of variables and Lookahead.

    Args:
        groups: see `group_of_each`.
        lookahead: None keeps no slow weights.

    Attributes:
        gathers: under tf.distribute with accumulation, whether the step that is traced now only
            adds its gradients to those of its batch, see `prepare_part`.
    """

    gathers = False

    def __init__(
        self,
        groups: Sequence[GroupOptions] = (),
        lookahead: LookaheadOptions | None = None,
        **arguments: Any,  # of the Keras class
    ) -> None:
        super().__init__(**arguments)
        self.groups, self.lookahead = groups, lookahead
        self.learning_rate_scale = self.add_variable(
            shape=(),
            initializer="ones",
            dtype="float32",
            aggregation="only_first_replica",
            name="learning_rate_scale",
        )

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state; its paths are the checkpoint's keys, so none may occur twice.

        Keras turns "a/b/kernel" into "a_b_kernel_momentum", and "a_b/kernel" too.
        """
        super().build(variables)
        if self.lookahead:
            self.slow_weights = self.add_optimizer_variables(variables, "slow")
        paths = [v.path for v in self.variables]
        twice = sorted({path for path in paths if paths.count(path) > 1})
        _require(not twice, "layer names must give each optimizer variable a unique path", twice)
        self.paths = [v.path for v in variables]
        chosen = group_of_each(self.groups, self.paths)
        ordered = [chosen[path] for path in self.paths]
        self._rate_factors = [group.learning_rate_factor if group else 1.0 for group in ordered]
        self._decay_factors = [group.weight_decay_factor if group else 1.0 for group in ordered]

    # ------------------------------------------------------- accumulation on devices of TensorFlow

    @property
    def sums_on_devices(self) -> bool:
        """Whether each device of tf.distribute sums the gradients of its parts of a batch.

        Keras would reduce them for each part, in a conditional, which tf.distribute cannot do.
        """
        if not self.gradient_accumulation_steps or keras.backend.backend() != "tensorflow":
            return False
        return bool(self._distribution_strategy.num_replicas_in_sync > 1)

    @property
    def num_parts_done(self) -> int:
        """The number of parts of batches whose gradients have been computed; waits for a step."""
        return int(ops.convert_to_numpy(self._iterations))

    def prepare_part(self, num_parts_done: int) -> None:
        """Sets whether the next part is to be gathered, or is the last of its batch.

        Call it before each step under tf.distribute: either kind of part has a step of its own.
        """
        if self.sums_on_devices:
            self.gathers = (num_parts_done + 1) % self.gradient_accumulation_steps != 0

    def add_variable_from_reference(
        self, reference_variable: Variable, name: str | None = None, initializer: str = "zeros"
    ) -> Variable:
        """Gives each device a sum of its own; what checkpoints hold is the sum over devices."""
        if name != "gradient_accumulator" or not self.sums_on_devices:
            return super().add_variable_from_reference(reference_variable, name, initializer)
        with keras.name_scope(self.name, caller=self):
            variable = keras.Variable(
                initializer,
                shape=reference_variable.shape,
                dtype=reference_variable.dtype,
                trainable=False,
                aggregation="sum",
                synchronization="on_read",
                name=f"{reference_variable.path.replace('/', '_')}_{name}",
            )
        self._track_variable(variable)
        return variable

    def _backend_apply_gradients(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Variable]
    ) -> None:
        """Updates the weights; of a part that is gathered, each device only sums the gradients."""
        if not self.sums_on_devices:
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        sums = [self._accumulated_gradients[index].value for index in indices]
        if self.gathers:
            for total, gradient in zip(sums, grads, strict=True):
                total.assign_add(gradient)
        else:
            num_parts = self.gradient_accumulation_steps
            pairs = zip(grads, sums, strict=True)
            means = self._clip_gradients([(g + total) / num_parts for g, total in pairs])
            self._apply_weight_decay(trainable_variables)
            self._backend_update_step(means, trainable_variables, self.learning_rate)
            for total in sums:
                total.assign(ops.zeros(total.shape, total.dtype))
        if self.use_ema:
            self._update_model_variables_moving_average(self._trainable_variables)

    # ------------------------------------------------------------------------------- an update

    def _get_current_learning_rate(self) -> Tensor:
        """Passes the number of updates to the schedule: Keras passes that of batches."""
        return self._learning_rate(self.iterations) * self.learning_rate_scale

    def _use_weight_decay(self, variable: Variable) -> bool:
        return is_decayed(variable) and super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables: Sequence[Variable]) -> None:
        """Decays as Keras does; with groups `update_step` decays each variable by itself.

        Keras' way stays where it is enough, because the other one rounds Muon's steps differently
        under TensorFlow, and a run must come to the bits that it came to before.
        """
        if self.weight_decay and not self.groups:
            super()._apply_weight_decay(variables)

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """Decays a variable and updates it, with the factors of its group, in the variable's type.

        Keras' SGD keeps the rate in its velocities; a factor does not change during a run, so each
        velocity is that of its own rate.
        """
        gradient = ops.cast(gradient, variable.dtype)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        rate_factor = self._rate_factors[self._get_variable_index(variable)]
        if rate_factor != 1:
            learning_rate = learning_rate * rate_factor
        self._decay(variable, learning_rate)
        self.apply_rule(gradient, variable, learning_rate)

    def apply_rule(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """Updates a variable that is decayed already, with the rate of its group."""
        super().update_step(gradient, variable, learning_rate)

    def _decay(self, variable: Variable, learning_rate: Tensor) -> None:
        """w <- w - rate * decay * w, before the update."""
        decay = self._decay_of(variable) if self.groups else 0.0  # else it is done
        if decay:
            decay = ops.cast(decay, variable.dtype)
            self.assign_sub(variable, variable * decay * learning_rate)

    def _decay_of(self, variable: Variable) -> float:
        """Returns the decay of a variable, 0.0 if it has none."""
        if not self.weight_decay or not self._use_weight_decay(variable):
            return 0.0
        return self.weight_decay * self._decay_factors[self._get_variable_index(variable)]

    def _backend_update_step(
        self, grads: Sequence[Tensor], variables: Sequence[Variable], learning_rate: Tensor
    ) -> None:
        """Updates all variables; before the first update and after every k-th moves slow weights.

        In other steps Lookahead costs a comparison: the work is inside of conditionals. They must
        not run what tf.distribute would reduce, and do not: each device assigns its own copies.
        """
        if self.lookahead is None:
            super()._backend_update_step(grads, variables, learning_rate)
            return
        weights, slow = self._trainable_variables, self.slow_weights
        _assign_if(ops.equal(self.iterations, 0), slow, lambda: [w.value for w in weights])
        super()._backend_update_step(grads, variables, learning_rate)
        is_last = ops.equal((self.iterations + 1) % self.lookahead.steps, 0)
        _assign_if(
            is_last, [*slow, *weights], lambda: [*(moved := self._moved_slow_weights()), *moved]
        )

    def _moved_slow_weights(self) -> list[Tensor]:
        """s + factor * (w - s) of each variable."""
        assert self.lookahead is not None
        pairs = zip(self.slow_weights, self._trainable_variables, strict=True)
        return [s + self.lookahead.factor * (w - s) for s, w in pairs]

    def _clip_gradients(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """Clips the global batch's gradient: Keras clips each replica's part before the sum."""
        if self._reduces_before_clipping():
            import tensorflow as tf

            context = tf.distribute.get_replica_context()
            grads = context.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
        return super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(
        self, grads_and_vars: Sequence[tuple[Tensor, Variable]]
    ) -> Sequence[tuple[Tensor, Variable]]:
        if self._reduces_before_clipping():
            return grads_and_vars
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def _reduces_before_clipping(self) -> bool:
        if self.global_clipnorm is None or keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return context is not None and context.num_replicas_in_sync > 1

    def _update_model_variables_moving_average(
        self, trainable_variables: Sequence[Variable]
    ) -> None:
        """Moves the averages once per update: Keras moves them with every accumulated batch."""
        momentum = ops.cast(self._average_momentum(), "float32")
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is not None:
                m = ops.cast(momentum, variable.dtype)
                average.assign(m * average + (1 - m) * variable)

    def _average_momentum(self) -> Tensor:
        """Returns 0 until the first update is done, then `ema_momentum` on an update, else 1."""
        k = self.gradient_accumulation_steps or 1
        is_update = ops.equal((self._iterations + 1) % k, 0)
        momentum = ops.where(is_update, self.ema_momentum, 1.0)
        return ops.where(ops.equal(self.iterations, 0), 0.0, momentum)

    def finalize_variable_values(self, var_list: Sequence[Variable]) -> None:
        """Does nothing: at the end of `fit` Keras would replace the weights by their averages.

        A stopped run must save the weights from which it resumes. `ship` reads `averaged_weights`.
        """


def _assign_if(
    condition: Tensor, variables: Sequence[Variable], values: Callable[[], list[Tensor]]
) -> None:
    """Assigns values to variables if a condition holds; else they are not even computed."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def assign() -> None:
            for variable, value in zip(variables, values(), strict=True):
                variable.assign(value)

        tf.cond(condition, assign, lambda: None)
        return
    kept = ops.cond(condition, values, lambda: [v.value for v in variables])
    for variable, value in zip(variables, kept, strict=True):
        variable.assign(value)


class SGD(_Corrected, keras.optimizers.SGD):
    """v <- momentum * v - rate * g, w <- w + v; with Nesterov w <- w + momentum * v - rate * g."""

    def apply_rule(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """Updates a variable; under TensorFlow one operation, where Keras has about ten."""
        if self.momentum and _is_float32_tensor(gradient):
            velocity = self.momentums[self._get_variable_index(variable)].value
            _tensorflow_ops().ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=velocity.handle,
                lr=learning_rate,
                grad=gradient,
                momentum=self.momentum,
                use_nesterov=self.nesterov,
            )
        else:
            super().apply_rule(gradient, variable, learning_rate)


class AdamW(_Corrected, keras.optimizers.AdamW):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    def apply_rule(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """Updates a variable; under TensorFlow one operation, where Keras has about twenty."""
        if not self.amsgrad and _is_float32_tensor(gradient):
            index = self._get_variable_index(variable)
            number = ops.cast(self.iterations + 1, "float32")
            _tensorflow_ops().ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                beta1_power=self.beta_1**number,
                beta2_power=self.beta_2**number,
                lr=learning_rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=gradient,
            )
        elif self.amsgrad or keras.backend.backend() == "tensorflow":
            super().apply_rule(gradient, variable, learning_rate)
        else:
            self._apply_exactly(gradient, variable, learning_rate)

    def _apply_exactly(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        """Updates a variable with all digits of 1 - beta^t.

        In float32, 0.999 is 0.99900001287, so 1 - 0.999 is off by 1.3e-5 of itself, and Keras'
        updates by half of that. TensorFlow's operation has the same error in the velocity, where
        it cancels.
        """
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        step = ops.cast(self.iterations + 1, variable.dtype)
        mean = momentum / _one_minus_power(self.beta_1, step)
        scale = ops.sqrt(velocity) + self.epsilon
        correction = ops.sqrt(_one_minus_power(self.beta_2, step))
        self.assign_sub(variable, learning_rate * correction * mean / scale)


def _is_float32_tensor(gradient: Tensor) -> bool:
    """Returns whether a gradient is one of TensorFlow in float32, and not rows of an embedding."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return isinstance(gradient, tf.Tensor) and gradient.dtype == tf.float32


def _tensorflow_ops() -> ModuleType:
    import tensorflow as tf

    return tf.raw_ops


class Lamb(_Corrected, keras.optimizers.Lamb):
    """LAMB (arXiv:1904.00962) with the details of timm 1.0, by which arXiv:2110.00476 trained.

    u = m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon) + decay * w is multiplied by the
    trust ratio |w| / |u|, which is 1 where either norm is 0; w <- w - rate * u. A variable without
    decay takes u as it is, unless `always_adapt`. Keras' class has the decay outside of the update,
    where it does not count for the trust ratio, and adapts biases and norms too.
    """

    def __init__(self, always_adapt: bool = False, **arguments: Any) -> None:  # of the Keras class
        super().__init__(**arguments)
        self.always_adapt = always_adapt

    def _apply_weight_decay(self, variables: Sequence[Variable]) -> None:
        """Does nothing: the decay is a part of the update."""

    def _decay(self, variable: Variable, learning_rate: Tensor) -> None:
        """Does nothing either."""

    def apply_rule(self, gradient: Tensor, variable: Variable, learning_rate: Tensor) -> None:
        index, decay = self._get_variable_index(variable), self._decay_of(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (gradient - momentum) * (1 - self.beta_1))
        self.assign_add(velocity, (ops.square(gradient) - velocity) * (1 - self.beta_2))
        step = ops.cast(self.iterations + 1, "float32")
        mean = momentum / _one_minus_power(self.beta_1, step)
        scale = ops.sqrt(velocity / _one_minus_power(self.beta_2, step)) + self.epsilon
        update = mean / scale + decay * variable
        if decay or self.always_adapt:
            own, other = (ops.sqrt(ops.sum(ops.square(x))) for x in (variable, update))
            both = ops.logical_and(own > 0, other > 0)
            update = update * ops.where(both, own / other, 1.0)
        self.assign_sub(variable, learning_rate * update)


def _one_minus_power(base: float, step: Tensor) -> Tensor:
    """1 - base^step to float32's precision; the difference itself loses five digits at 0.999."""
    return -ops.expm1(step * math.log(base)) if base else 1.0


MAX_POLYNOMIALS = 3  # of Muon's iterations that are multiplied before the kernel is


class Muon(_Corrected, keras.optimizers.Muon):
    """Muon (kellerjordan.github.io/posts/muon) for matrices and convolutions, Adam for all else.

    Keras' class gives every variable that is not rank 2 to Adam, which in a convolutional network
    is nearly all of it. Here a kernel [kh, kw, C_in, C_out] with C_out > 1 is orthogonalised as
    the matrix [kh*kw*C_in, C_out], as in the author's code. Adam keeps norms, biases, embeddings,
    depthwise kernels, rank 3, and layers whose path matches `exclude_layers`.
    """

    def _should_use_adamw(self, variable: Variable) -> bool:
        shape = variable.shape
        if not (len(shape) == 2 or (len(shape) == 4 and shape[-1] > 1)):
            return True
        if self.exclude_embeddings and "embedding" in variable.path.lower():
            return True
        return any(re.search(layer, variable.path) for layer in self.exclude_layers)

    def zeropower_via_newtonschulz5(self, x: Tensor, steps: int) -> Tensor:
        matrix = _as_matrix(x)
        if max(matrix.shape) >= 2 * min(matrix.shape):
            update = self._newton_schulz_of_long_matrix(matrix, steps)
        else:
            update = super().zeropower_via_newtonschulz5(matrix, steps)
        return ops.reshape(update, x.shape)

    def _newton_schulz_of_long_matrix(self, x: Tensor, steps: int) -> Tensor:
        """Returns what Keras' iteration returns, for half of its products.

        Each iteration multiplies a wide x by a polynomial of the Gram matrix x x^T. Here the Gram
        matrix is iterated instead of x, and x is multiplied by several polynomials at once
        (dao-lab.ai/blog/2026/gram-newton-schulz). After MAX_POLYNOMIALS the Gram matrix is computed
        anew: rounding makes eigenvalues of 0 negative, and each iteration multiplies those by 12,
        which would ruin the products of GPUs, whose float32 has 11 bits (TF32).
        """
        tall = x.shape[0] > x.shape[1]
        x = x / (ops.norm(x) + 1e-7)  # so that no singular value is above 1
        while steps > 0:
            gram = ops.matmul(ops.transpose(x), x) if tall else ops.matmul(x, ops.transpose(x))
            product = self._product_of_polynomials(gram, min(steps, MAX_POLYNOMIALS))
            x = ops.matmul(x, product) if tall else ops.matmul(product, x)
            steps -= MAX_POLYNOMIALS
        return x

    def _product_of_polynomials(self, gram: Tensor, count: int) -> Tensor:
        """Returns the product of the polynomials of so many iterations."""
        product = identity = ops.eye(gram.shape[0], dtype=gram.dtype)
        for number in range(count):
            square = ops.matmul(gram, gram)
            polynomial = self.muon_a * identity + self.muon_b * gram + self.muon_c * square
            product = polynomial if number == 0 else ops.matmul(polynomial, product)
            if number < count - 1:
                gram = ops.matmul(polynomial, ops.matmul(polynomial, gram))
        return product

    def lr_adjust(self, x: Tensor) -> Tensor:
        """Scales an update as Keras does, with the sides of its matrix and in its own type."""
        if self.rms_rate is None:
            return x
        longer = ops.cast(ops.sqrt(max(_as_matrix(x).shape)), x.dtype)
        return x * longer * self.rms_rate


def _as_matrix(x: Tensor) -> Tensor:
    return ops.reshape(x, (-1, x.shape[-1]))


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A rate function of SCHEDULES with its numbers, times the warm-up of `make_schedule`."""

    def __init__(
        self,
        name: str,
        learning_rate: float,
        steps_per_epoch: float,
        num_epochs: float,
        warmup_epochs: float,
        warmup_learning_rate: float | Literal["auto"],
        by_epoch: bool,
        options: JsonObject,
    ) -> None:
        self.name = name
        self.learning_rate = learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.num_epochs = num_epochs
        self.warmup_epochs = warmup_epochs
        self.warmup_learning_rate = warmup_learning_rate
        self.by_epoch = by_epoch
        self.options = options
        self.num_steps = self.step_at(num_epochs)
        self.num_warmup_steps = self.step_at(warmup_epochs)

    def step_at(self, epoch: float) -> int:
        """Returns the step with which a (fractional) epoch begins; by epoch, the epoch itself."""
        return min(round(epoch * (1 if self.by_epoch else self.steps_per_epoch)), 2**31 - 1)

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "int32")
        if self.by_epoch:
            step = step // int(self.steps_per_epoch)
        rate = SCHEDULES[self.name](step, self, **self.options)
        if self.num_warmup_steps == 0:
            return rate
        return rate * ops.where(step < self.num_warmup_steps, self._warmup(step), 1.0)

    def _warmup(self, step: Tensor) -> Tensor:
        """Returns the fraction of the peak at a step of the warm-up."""
        if self.warmup_learning_rate == "auto":
            return ops.cast(step + 1, "float32") / self.num_warmup_steps
        begin = self.warmup_learning_rate / self.learning_rate
        return _line(step, 0, self.num_warmup_steps, begin, 1.0)

    def get_config(self) -> JsonObject:
        return {
            "name": self.name,
            "learning_rate": self.learning_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "num_epochs": self.num_epochs,
            "warmup_epochs": self.warmup_epochs,
            "warmup_learning_rate": self.warmup_learning_rate,
            "by_epoch": self.by_epoch,
            "options": self.options,
        }


def _constant(step: Tensor, schedule: Schedule, **plateau_options: float) -> Tensor:
    return ops.convert_to_tensor(schedule.learning_rate, dtype="float32")


def _step(step: Tensor, schedule: Schedule, epochs: list[float], factor: float) -> Tensor:
    """learning_rate * factor^n, n = how many `epochs` have begun: exact, by comparing integers."""
    rates = [schedule.learning_rate * factor**n for n in range(len(epochs) + 1)]
    begun = [ops.cast(step >= schedule.step_at(epoch), "int32") for epoch in epochs]
    return ops.take(ops.convert_to_tensor(rates, dtype="float32"), sum(begun))


def _cosine(
    step: Tensor,
    schedule: Schedule,
    final_factor: float,
    final_learning_rate: float | None,
    spans_warmup: bool,
) -> Tensor:
    """Half a cosine (arXiv:1608.03983) from the peak to the final rate; see `_fall`.

    The final rate, `final_learning_rate` or `final_factor * learning_rate`, belongs to the step
    after the last one, as in optax and torch.
    """
    peak = schedule.learning_rate
    final = peak * final_factor if final_learning_rate is None else final_learning_rate
    return _fall(_half_cosine, step, schedule, final, spans_warmup)


def _one_cycle(
    step: Tensor,
    schedule: Schedule,
    div_factor: float,
    final_div_factor: float,
    warmup_fraction: float,
) -> Tensor:
    """Half a cosine up to the peak, half a cosine down (arXiv:1708.07120), as torch's OneCycleLR.

    From peak / div_factor at step 0 to the peak at step round(warmup_fraction * steps) - 1, then to
    peak / div_factor / final_div_factor at the last step.
    """
    peak, last = schedule.learning_rate, schedule.num_steps - 1
    top = max(0, round(warmup_fraction * schedule.num_steps) - 1)
    first = peak / div_factor
    up = _half_cosine(step, 0, top, first, peak)
    down = _half_cosine(step, top, last, peak, first / final_div_factor)
    return ops.where(step < top, up, down)


def _linear(step: Tensor, schedule: Schedule, final_factor: float, spans_warmup: bool) -> Tensor:
    """A line from the peak to the final rate at the step after the last; see `_fall`."""
    return _fall(_line, step, schedule, final_factor * schedule.learning_rate, spans_warmup)


def _fall(
    curve: Callable[..., Tensor],
    step: Tensor,
    schedule: Schedule,
    final: float,
    spans_warmup: bool,
) -> Tensor:
    """A curve from the peak at the warm-up's end, or at the run's start, to the final rate.

    In the warm-up the rate is the peak, of which the warm-up takes its fraction.
    """
    peak, begin, end = schedule.learning_rate, schedule.num_warmup_steps, schedule.num_steps
    if not spans_warmup:
        return curve(step, begin, end, peak, final)
    return ops.where(step < begin, peak, curve(step, 0, end, peak, final))


def _triangular(
    step: Tensor,
    schedule: Schedule,
    peak_fraction: float,
    start_factor: float,
    final_factor: float,
) -> Tensor:
    """A line up to the peak at step round(peak_fraction * steps), a line down to the final rate.

    The final rate belongs to the step after the last one, as in the training code of airbench and
    ffcv.
    """
    peak, end = schedule.learning_rate, schedule.num_steps
    top = round(peak_fraction * end)
    up = _line(step, 0, top, start_factor * peak, peak)
    down = _line(step, top, end, peak, final_factor * peak)
    return ops.where(step < top, up, down)


def _line(step: Tensor, start: int, end: int, value_at_start: float, value_at_end: float) -> Tensor:
    """Returns float32; both weights, so that either end is exact."""
    part = ops.clip(ops.cast(step - start, "float32") / max(1, end - start), 0.0, 1.0)
    return value_at_start * (1 - part) + value_at_end * part


def _half_cosine(
    step: Tensor, start: int, end: int, value_at_start: float, value_at_end: float
) -> Tensor:
    """Returns float32; cos^2(x/2) is (1 + cos x) / 2 without its cancellation at the end."""
    part = ops.cast(step - start, "float32") / max(1, end - start)
    weight = ops.square(ops.cos(ops.clip(part, 0.0, 1.0) * (math.pi / 2)))
    return value_at_end + (value_at_start - value_at_end) * weight


def _require_name(kind: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise UserError(f'{kind}.name "{name}" is not known; {nearest(name, known)}')


def _require(condition: bool, requirement: str, received: object) -> None:
    if not condition:
        raise UserError(f"{requirement}; received {received}")


OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    "sgd": SGD,
    "adamw": AdamW,
    "muon": Muon,
    "lamb": Lamb,
}

SCHEDULES: dict[str, Callable[..., Tensor]] = {  # (step, schedule, **options) -> float32
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
    "linear": _linear,
    "triangular": _triangular,
    "plateau": _constant,  # a callback lowers `learning_rate_scale`
}
