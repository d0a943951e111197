"""How tokens are chosen: T5X's decode_fn as an object with its own knobs."""

import dataclasses

import gin

from calm_jax.decode import beam_search
from calm_jax.early_exit.engine import sampling


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Greedy:
  """The most probable token of the layer where it leaves."""


DecodeFn = Greedy | sampling.Sampler | beam_search.BeamSearch
