"""The interface of a training objective, and the types that it exchanges.

    training.loop --state, batch--> TrainStep --state, sums--> training.logs

`step.LayerWeightedObjective` is stage 1, `classifier_step.ClassifierObjective`
stage 2; `loop.train` takes any object of this shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from flax import linen as nn

from calm_jax.training import metrics, optimizers, state

TrainStep = Callable[
  [state.TrainState, state.Batch], tuple[state.TrainState, metrics.MetricSums]
]
# (params, batches) -> metrics of all of them.
Evaluator = Callable[[Any, Sequence[state.Batch]], dict[str, float]]


class Objective(Protocol):
  """What a run minimizes, and what it says of it."""

  def create_state(
    self,
    module: nn.Module,
    optimizer: optimizers.Optimizer,
    rng: jax.Array,
    batch: state.Batch,
    initial_params: Any,
  ) -> state.TrainState:
    """The state before the first step; traceable.

    Args:
      module: `t5.network.Transformer`.
      optimizer: from `calm_jax.training.optimizers`.
      rng: key that fresh parameters are drawn from.
      batch: any; only its shapes matter, and they do not affect the result.
      initial_params: parameters to begin with; None draws all.

    Raises:
      ConfigError: parameters are needed, and there are none.
    """

  def make_train_step(
    self, module: nn.Module, optimizer: optimizers.Optimizer, seed: int
  ) -> TrainStep:
    """The compiled step; it donates the state. `seed` decides what is drawn."""

  def make_evaluator(self, module: nn.Module) -> Evaluator:
    """The same names at every evaluation; NaN where one is undefined."""

  def training_metrics(
    self, total: metrics.MetricSums, seconds: float
  ) -> dict[str, float]:
    """T5X's names for the means over the steps that `total` adds up."""

  def training_line(self, values: dict[str, float]) -> str:
    """What a line of the log says besides the loss."""

  def evaluation_lines(self, values: dict[str, float]) -> list[str]:
    """What an evaluation prints; at least one line."""
