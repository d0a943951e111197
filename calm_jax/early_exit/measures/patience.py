"""Patience: for how many exits in a row the best token has stayed the same."""

import dataclasses
from typing import ClassVar

import gin
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from calm_jax.early_exit.engine import confidence


@struct.dataclass
class _Streak:
  """The best token of the exit before, and for how many exits it has stood."""

  best: Int[Array, ' batch']
  count: Int[Array, ' batch']


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Patience(confidence.ConfidenceMeasure):
  """For how many exits on end the best token has stayed the same.

  Zhou et al. 2020 (PABEE) leave after n agreements. Here the confidence is the
  number of agreements in a row over L - 1, so that a threshold of n / (L - 1)
  is a patience of n, and a grid of thresholds tries them all. Rows of the full
  model are not watched on their way up; their confidence at layer L is 0.
  """

  predicts: ClassVar[bool] = True

  def start_token(self, config, batch_size):
    nothing = jnp.full((batch_size,), -1, jnp.int32)
    return _Streak(best=nothing, count=jnp.zeros_like(nothing))

  def __call__(self, view: confidence.LayerView) -> confidence.Measurement:
    prediction = view.predict(view.logits())
    last = view.token_state
    agrees = prediction.best == last.best
    unwatched = view.is_last & view.is_full_model
    count = jnp.where(agrees & ~unwatched, last.count + 1, 0)
    return confidence.Measurement(
      count.astype(jnp.float32) / max(view.num_layers - 1, 1),
      prediction,
      token_state=_Streak(best=prediction.best, count=count),
    )
