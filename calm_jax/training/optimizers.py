"""Optimizers and learning-rate schedules, with T5X's conventions.

`training.state` initializes the transformation; `training.step` applies it and
logs the learning rate.
"""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import optax

from calm_jax import errors

LearningRateFn = Callable[[jnp.ndarray | int], jnp.ndarray]


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """A gradient transformation and the learning rate that it follows.

  Attributes:
    transformation: optax transformation from gradients to parameter updates.
    learning_rate_fn: step, counted from 0 -> learning rate, for the logs.
    start_message: what a run says at its start; '' for nothing.
  """

  transformation: optax.GradientTransformation
  learning_rate_fn: LearningRateFn
  start_message: str = ''


def _as_schedule(learning_rate: float | LearningRateFn) -> LearningRateFn:
  if callable(learning_rate):
    return learning_rate
  return optax.constant_schedule(learning_rate)


def _with_clipping(transformation, global_norm_clip_threshold):
  if global_norm_clip_threshold is None:
    return transformation
  return optax.chain(
    optax.clip_by_global_norm(global_norm_clip_threshold), transformation
  )


def adafactor(
  learning_rate: float | LearningRateFn = 1e-3,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  multiply_by_parameter_scale: bool = True,
  min_dim_size_to_factor: int = 128,
  epsilon: float = 1e-30,
  step_offset: int = 0,
  global_norm_clip_threshold: float | None = None,
) -> Optimizer:
  """Adafactor as T5 uses it: no momentum, updates relative to the parameters.

  The learning rate means the same as in T5X: each update has a root mean square
  of about learning_rate * max(RMS(parameter), 1e-3), so 1e-3 (fine-tuning) or
  1 / sqrt(step) (pretraining) are usual, and an Adam value such as 1e-4 trains
  too slowly. Over 20 steps the result stays within 1e-4 of T5X's Adafactor in
  relative displacement, for 1-D and 2-D parameters. With 3-D kernels the two
  differ in how they factor, which is one reason why attention kernels are 2-D
  in `t5.layers`.

  Accumulators always start fresh at step 0, also where parameters come from a
  checkpoint. What T5X calls `step_offset` then decides how fast they fill:

  * 0: at once, as in a new run; right for parameters without accumulators.
  * -1_000_000: as slowly as after a million steps. It is what T5X does with
    such parameters where it counts on from a checkpoint's step 1,000,000 and
    its own step_offset is 0; the accumulators stay far below the squared
    gradients, and clipping alone bounds the updates.

  Args:
    learning_rate: a number or a function of the step.
    decay_rate: exponent of the second-moment decay.
    clipping_threshold: largest root mean square of an unscaled update.
    multiply_by_parameter_scale: scale updates by RMS(parameter).
    min_dim_size_to_factor: second moments are factored where the two largest
      dimensions are at least this.
    epsilon: added to squared gradients.
    step_offset: subtracted from the step in the second-moment decay, which is
      1 - (step - step_offset + 1)^-rate; see above.
    global_norm_clip_threshold: clip gradients by their global norm first.

  Returns:
    The optimizer.

  Raises:
    ConfigError: a step_offset above 0, where the decay has no value yet.
  """
  if step_offset > 0:
    raise errors.ConfigError(
      'step_offset must be at most 0, because steps and accumulators start at 0'
      f' here, got {step_offset}. T5X needs the step of the checkpoint as its'
      ' step_offset to start from zero; here that is 0.'
    )
  schedule = _as_schedule(learning_rate)
  transformation = optax.adafactor(
    learning_rate=schedule,
    min_dim_size_to_factor=min_dim_size_to_factor,
    decay_rate=decay_rate,
    decay_offset=step_offset,
    multiply_by_parameter_scale=multiply_by_parameter_scale,
    clipping_threshold=clipping_threshold,
    momentum=None,
    eps=epsilon,
  )
  return Optimizer(
    _with_clipping(transformation, global_norm_clip_threshold),
    schedule,
    'Adafactor from step 0, with the accumulators there are, else fresh ones;'
    ' second-moment decay 1 -'
    f' (step + {1 - step_offset:,})^-{decay_rate},'
    f' step_offset {step_offset:,}',
  )


def adamw(
  learning_rate: float | LearningRateFn = 1e-3,
  b1: float = 0.9,
  b2: float = 0.98,
  weight_decay: float = 0.0,
  global_norm_clip_threshold: float | None = 1.0,
) -> Optimizer:
  """AdamW, for experiments; not what T5 or CALM used."""
  schedule = _as_schedule(learning_rate)
  transformation = optax.adamw(
    schedule, b1=b1, b2=b2, weight_decay=weight_decay
  )
  return Optimizer(
    _with_clipping(transformation, global_norm_clip_threshold), schedule
  )


_FACTORS = (
  'constant',
  'linear_warmup',
  'linear_decay',
  'rsqrt_decay',
  'rsqrt_normalized_decay',
  'decay_every',
  'cosine_decay',
  'linear_cooldown',
)


def _parse_factors(factors: str) -> tuple[str, ...]:
  names = tuple(name.strip() for name in factors.split('*'))
  for name in names:
    if name not in _FACTORS:
      raise errors.unknown_name(
        "learning-rate factor, joined to others by ' * ',", name, _FACTORS
      )
  return names


def create_learning_rate_scheduler(
  factors: str = 'constant * linear_warmup * rsqrt_decay',
  base_learning_rate: float = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20_000,
  steps_per_cycle: int = 100_000,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
  cooldown_start: int = 0,
  cooldown_steps: int = 1000,
) -> LearningRateFn:
  """A product of named factors of the step, with T5X's names and values.

  * constant: base_learning_rate.
  * linear_warmup: min(1, step / warmup_steps).
  * linear_decay: base_learning_rate * min(step / warmup_steps,
    1 + decay_factor * (warmup_steps - step)); it contains `constant` and
    `linear_warmup`.
  * rsqrt_decay: 1 / sqrt(max(step, warmup_steps)).
  * rsqrt_normalized_decay: sqrt(warmup_steps / max(step, warmup_steps)).
  * decay_every: decay_factor ^ floor(step / steps_per_decay).
  * cosine_decay: half a cosine from 1 to 0 over each steps_per_cycle steps
    after the warm-up.
  * linear_cooldown: 1 until cooldown_start, then a straight line to 0 over
    cooldown_steps. With `constant` before it, a run can be ended well from any
    of its checkpoints. Not of T5X.

  Args:
    factors: factor names joined by ' * '.
    base_learning_rate: see above.
    warmup_steps: see above.
    decay_factor: see above.
    steps_per_decay: see above.
    steps_per_cycle: see above.
    step_offset: the step that counts as 0, for fine-tuning.
    cooldown_start: see above.
    cooldown_steps: see above.
    min_learning_rate: floor of the product.

  Returns:
    A function of the step, counted from 0.

  Raises:
    ConfigError: an unknown factor.
  """
  names = _parse_factors(factors)

  def factor_value(name: str, step: jnp.ndarray) -> jnp.ndarray:
    warmed_up_step = jnp.maximum(step, float(max(warmup_steps, 1)))
    match name:
      case 'constant':
        return jnp.float32(base_learning_rate)
      case 'linear_warmup':
        return jnp.minimum(1.0, step / max(warmup_steps, 1))
      case 'linear_decay':
        return base_learning_rate * jnp.minimum(
          step / max(warmup_steps, 1),
          1.0 + decay_factor * (warmup_steps - step),
        )
      case 'rsqrt_decay':
        return 1.0 / jnp.sqrt(warmed_up_step)
      case 'rsqrt_normalized_decay':
        return jnp.sqrt(max(warmup_steps, 1) / warmed_up_step)
      case 'decay_every':
        return decay_factor ** jnp.floor(step / steps_per_decay)
      case 'cosine_decay':
        progress = jnp.maximum(0.0, (step - warmup_steps) / steps_per_cycle)
        return 0.5 * (1.0 + jnp.cos(math.pi * (progress % 1.0)))
      case 'linear_cooldown':
        done = (step - cooldown_start) / max(cooldown_steps, 1)
        return 1.0 - jnp.clip(done, 0.0, 1.0)

  def learning_rate_fn(step: jnp.ndarray | int) -> jnp.ndarray:
    step = jnp.maximum(0, jnp.asarray(step) - step_offset).astype(jnp.float32)
    value = jnp.float32(1.0)
    for name in names:
      value *= factor_value(name, step)
    return jnp.maximum(value, min_learning_rate)

  return learning_rate_fn
