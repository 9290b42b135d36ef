"""The options of optimizers and schedules, as tables of a recipe.

`training.optim` makes the optimizers and schedules. Defaults are Keras' own unless noted.
"""

import re
from itertools import pairwise
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from keras_imnet64.core.errors import UserError
from keras_imnet64.core.tables import (
    AS_WRITTEN,
    Table,
    TaggedTable,
    broken_rule,
    by_tag,
    expected,
    not_as_described,
)
from keras_imnet64.core.types import Json

MAX_NUMBER = 1e30  # float32 holds its multiples
NonNegative = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
DivideBy = Annotated[float, Field(ge=1, le=MAX_NUMBER)]


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        raise expected("a regular expression") from None
    return text


def _are_increasing(epochs: list[float]) -> list[float]:
    if not epochs or any(before >= after for before, after in pairwise(epochs)):
        raise not_as_described()
    return epochs


Pattern = Annotated[str, AfterValidator(_is_pattern)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Epochs = Annotated[
    list[Annotated[float, Field(gt=0, le=MAX_NUMBER), AS_WRITTEN]],
    Field(title="an increasing list of numbers"),
    AfterValidator(_are_increasing),
]


class GroupOptions(Table):
    """Factors for some of the variables. The first group that matches a variable applies to it. A
    group whose factors are both 1 only keeps its variables from the groups below it."""

    variables: Pattern
    """A regular expression that is searched in the path of each trainable variable, such as
    "stage1_block1_bn1/beta"."""
    learning_rate_factor: NonNegative = 1.0
    """Multiplies the scheduled learning rate."""
    weight_decay_factor: NonNegative = 1.0
    """Multiplies optimizer.weight_decay and loss.l2, where these apply to the variable; refused if
    neither applies to any variable of the group."""


class LookaheadOptions(Table):
    """Lookahead (arXiv:1907.08610): slow weights follow the weights of any optimizer."""

    steps: Annotated[int, Field(ge=1, le=10**6)] = 5
    """Updates after which the slow weights move, and the weights are set to them."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The fraction of the way to the weights by which the slow weights move."""


class OptimizerOptions(TaggedTable):
    """The options that all optimizers share."""

    name: str
    """One of the optimizers; its options stand beside it."""
    learning_rate: Positive
    """The peak of the schedule."""
    weight_decay: NonNegative = 0.0
    """Decoupled; not applied to biases and norms."""
    clip_norm: Positive | None = None
    """Largest global norm of the gradients, after their reduction over devices."""
    groups: list[GroupOptions] = []
    """Variables with a learning rate or decay of their own; at most one group applies to each."""
    lookahead: LookaheadOptions | None = None
    """Slow weights, which are what ships unless train.ema is set; default: none."""


class SGDOptions(OptimizerOptions):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    momentum: Momentum = 0.9  # Keras: 0
    """Share of the last update in the next one."""
    nesterov: bool = False
    """Whether the gradient is taken as if the momentum had been applied (Nesterov)."""


class AdamWOptions(OptimizerOptions):
    """AdamW (arXiv:1711.05101)."""

    name: Literal["adamw"]
    beta_1: Momentum = 0.9
    """Decay of the mean of the gradients."""
    beta_2: Momentum = 0.999
    """Decay of the mean of their squares."""
    epsilon: Positive = 1e-7
    """Added to the root by which an update is divided."""


class MuonOptions(OptimizerOptions):
    """Muon for matrices and convolutions, Adam for all else."""

    name: Literal["muon"]
    momentum: Momentum = 0.95
    """Share of the last update in the next one."""
    nesterov: bool = True
    """Whether the gradient is taken as if the momentum had been applied (Nesterov)."""
    ns_steps: Annotated[int, Field(ge=1, le=100)] = 5
    """Newton-Schulz iterations that orthogonalise an update."""
    rms_rate: Positive = 0.2
    """With 0.2, updates are as large as Adam's, so Adam's learning rate and weight decay fit."""
    exclude_layers: list[Pattern] = ["(^|/)logits/"]  # Keras: none
    """Regular expressions for the paths of layers that Adam updates; in every published account
    the head is one of them."""
    exclude_embeddings: bool = True
    """Whether Adam updates embeddings too."""
    adam_lr_ratio: Positive = 1.0
    """Adam's learning rate as a multiple of Muon's."""
    adam_beta_1: Momentum = 0.9
    """Adam's decay of the mean of the gradients."""
    adam_beta_2: Momentum = 0.999
    """Adam's decay of the mean of their squares."""
    epsilon: Positive = 1e-7
    """Added to the root by which an update is divided."""


class LambOptions(OptimizerOptions):
    """LAMB (arXiv:1904.00962) as in timm, with which "ResNet strikes back" trained.

    The decay is part of the update, whose size is adapted to that of the variable.
    """

    name: Literal["lamb"]
    clip_norm: Positive | None = 1.0  # of the other optimizers: none
    """Largest global norm of the gradients, after their reduction over devices."""
    beta_1: Momentum = 0.9
    """Decay of the mean of the gradients."""
    beta_2: Momentum = 0.999
    """Decay of the mean of their squares."""
    epsilon: Positive = 1e-6  # Keras: 1e-7
    """Added to the root by which an update is divided."""
    always_adapt: bool = False
    """Whether updates of variables without decay, such as biases, are adapted to their size too."""


AnyOptimizer = Annotated[
    SGDOptions | AdamWOptions | MuonOptions | LambOptions, Field(discriminator="name")
]
OPTIMIZER_TABLES: dict[str, type[OptimizerOptions]] = by_tag(AnyOptimizer)


class ScheduleOptions(TaggedTable):
    """The options that all schedules share."""

    name: str
    """One of the schedules; its options stand beside it."""
    warmup_epochs: NonNegative = 0.0
    """Epochs over which the rate rises to the peak."""
    warmup_learning_rate: NonNegative | Literal["auto"] = "auto"
    """The rate of the first step, from which the warm-up rises in a straight line, like timm's
    warmup_lr; auto: the peak divided by the steps of the warm-up."""
    by_epoch: bool = False
    """Whether the rate stays the same within an epoch, as in timm: the schedule then counts epochs
    as it counts steps by default."""

    def check_warmup(self, learning_rate: float, num_epochs: float) -> None:
        """Refuses a warm-up as long as the run, or one that begins above the peak."""
        first = self.warmup_learning_rate
        if first != "auto" and first > learning_rate:
            raise UserError(
                f"schedule.warmup_learning_rate must be at most the peak, {learning_rate}; "
                f"received {first}"
            )
        if self.warmup_epochs >= num_epochs:
            raise UserError(
                f"schedule.warmup_epochs must lie below the run's {num_epochs} epochs; received "
                f"{self.warmup_epochs}"
            )

    @model_validator(mode="after")
    def _has_a_warmup(self) -> Self:
        if self.warmup_learning_rate != "auto" and not self.warmup_epochs:
            raise broken_rule(
                "has no warm-up that could begin at warmup_learning_rate: set warmup_epochs, or "
                f'set it to "auto"; received {self.warmup_learning_rate}'
            )
        return self

    @model_validator(mode="after")
    def _counts_whole_epochs(self) -> Self:
        if self.by_epoch and self.warmup_epochs != int(self.warmup_epochs):
            raise broken_rule(
                "counts whole epochs with by_epoch, also in warmup_epochs; received "
                f"{self.warmup_epochs}"
            )
        return self


AnyScheduleOptions = TypeVar("AnyScheduleOptions", bound=ScheduleOptions)


def _without_warmup(schedule: AnyScheduleOptions, option: str) -> AnyScheduleOptions:
    """Returns a schedule that rises by itself; raises an error if it has a warm-up too."""
    if schedule.warmup_epochs:
        raise broken_rule(
            f"has {option} in place of warmup_epochs, which must be 0; "
            f"received {schedule.warmup_epochs}"
        )
    return schedule


class _SteadyOptions(ScheduleOptions):
    """What the schedules share whose rate changes in the warm-up alone, or between epochs."""

    @model_validator(mode="after")
    def _changes_within_epochs(self) -> Self:
        if self.by_epoch and not self.warmup_epochs:
            raise broken_rule("has the same rate in all steps of an epoch: set by_epoch = false")
        return self


class ConstantOptions(_SteadyOptions):
    """The peak from the end of the warm-up on; the schedule of a recipe that states none."""

    name: Literal["constant"] = "constant"


class StepOptions(ScheduleOptions):
    """The rate falls by a factor at some epochs."""

    name: Literal["step"]
    epochs: Epochs
    """Epochs at whose start the rate is multiplied by the factor."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """What the rate is multiplied by."""

    @model_validator(mode="after")
    def _drops_between_epochs(self) -> Self:
        part = next((epoch for epoch in self.epochs if epoch != int(epoch)), None)
        if self.by_epoch and part is not None:
            raise broken_rule(f"counts whole epochs with by_epoch; received {part} in epochs")
        return self


class _FallingOptions(ScheduleOptions):
    """What the schedules share that fall from the peak to a final rate at the run's end."""

    spans_warmup: bool = False
    """Whether the fall begins with the run and the warm-up hides its first part, as in timm; by
    default it begins where the warm-up ends."""

    @model_validator(mode="after")
    def _spans_a_warmup(self) -> Self:
        if self.spans_warmup and not self.warmup_epochs:
            raise broken_rule("has no warm-up to span: set warmup_epochs, or spans_warmup = false")
        return self


class CosineOptions(_FallingOptions):
    """Half a cosine from the peak to the final rate."""

    name: Literal["cosine"]
    final_factor: Fraction = 0.0
    """The final rate as a fraction of the peak."""
    final_learning_rate: NonNegative | None = None
    """The final rate itself."""

    @model_validator(mode="after")
    def _has_one_final_rate(self) -> Self:
        if self.final_factor and self.final_learning_rate is not None:
            raise broken_rule(
                "takes final_factor or final_learning_rate, not both; received "
                f"{self.final_factor} and {self.final_learning_rate}"
            )
        return self


class OneCycleOptions(ScheduleOptions):
    """Half a cosine up to the peak, half a cosine down, as in torch's OneCycleLR."""

    name: Literal["one_cycle"]
    div_factor: DivideBy = 25.0
    """The peak divided by the first rate."""
    final_div_factor: DivideBy = 1e4
    """The first rate divided by the last."""
    warmup_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The fraction of all steps over which the rate rises."""

    @model_validator(mode="after")
    def _has_its_own_warmup(self) -> Self:
        return _without_warmup(self, "warmup_fraction")


class LinearOptions(_FallingOptions):
    """A straight line from the peak to the final rate."""

    name: Literal["linear"]
    final_factor: Fraction = 0.0
    """The final rate as a fraction of the peak."""


class TriangularOptions(ScheduleOptions):
    """A straight line up to the peak, and one down to the final rate at the run's end."""

    name: Literal["triangular"]
    peak_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.23
    """The fraction of all steps over which the rate rises; airbench94's, as is start_factor."""
    start_factor: Fraction = 0.2
    """The first rate as a fraction of the peak."""
    final_factor: Fraction = 0.0
    """The final rate as a fraction of the peak."""

    @model_validator(mode="after")
    def _has_its_own_warmup(self) -> Self:
        return _without_warmup(self, "peak_fraction")


class PlateauOptions(_SteadyOptions):
    """The rate is lowered when the validation loss has not fallen for some epochs."""

    name: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What the rate is multiplied by."""
    patience: Annotated[int, Field(ge=1, le=10**9)] = 10
    """Epochs without a fall of the loss after which the rate is lowered."""
    min_delta: NonNegative = 0.0
    """Smallest fall of the loss that counts."""


def named_constant(table: Json) -> Json:
    """Returns the values of a table `schedule`, with the name "constant" if they have none."""
    return {"name": "constant"} | table if isinstance(table, dict) else table


AnySchedule = Annotated[
    ConstantOptions
    | StepOptions
    | CosineOptions
    | OneCycleOptions
    | LinearOptions
    | TriangularOptions
    | PlateauOptions,
    Field(discriminator="name"),
]
SCHEDULE_TABLES: dict[str, type[ScheduleOptions]] = by_tag(AnySchedule)
