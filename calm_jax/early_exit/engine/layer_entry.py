"""A decoder layer that some rows enter with their token of a time.

    TokenRun --LayerEntry, LayerState--> SkippedLayers --> LayerState

What `skipped_layers` may do with the layer: project states to its keys and
values, and run queries against its caches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from calm_jax.early_exit.engine import (
  confidence,
  decoder_state,
  lazy_cache,
  owed,
)
from calm_jax.t5 import rows as rows_lib


@dataclasses.dataclass(frozen=True)
class LayerEntry:
  """One layer, and the token that is on its way through it.

  Attributes:
    number: of the layer, 1..L.
    num_layers: L.
    first_exit: the first layer after which a token may leave.
    method: calls a method of the layer, a `network.DecoderLayer`, by name.
    measure: that decides about the token.
    params: of the whole model.
    call: what all layers of the token share; its rows are those that enter.
  """

  number: int
  num_layers: int
  first_exit: int
  method: Callable[..., Any]
  measure: confidence.ConfidenceMeasure
  params: Mapping[str, Any]
  call: decoder_state.TokenCall

  def cache_of(self, cache: decoder_state.DecoderCache) -> lazy_cache.LazyCache:
    """The layer's own keys and values."""
    return cache.layers[self.number - 1]

  def with_cache(
    self, cache: decoder_state.DecoderCache, own: lazy_cache.LazyCache
  ) -> decoder_state.DecoderCache:
    """The caches of all layers, that of this one replaced."""
    i = self.number - 1
    layers = (*cache.layers[:i], own, *cache.layers[i + 1 :])
    return cache.replace(layers=layers)

  def project(self, states: Float[Array, 'batch length embed']):
    """Keys and values of states below the layer, in the cached layouts."""
    return self.method(states, method='project_self')

  def project_token(self, hidden: Float[Array, 'rows embed']):
    """Query, key and value of one token per row."""
    return self.method(hidden, method='project_token')

  @property
  def own(self) -> owed.Pairs:
    """The token itself, of each row."""
    return owed.Pairs(self.call.rows, self.call.clock)

  def block(
    self,
    hidden: Float[Array, 'pairs embed'],
    query: jax.Array,
    cache: lazy_cache.LazyCache,
    bias: jax.Array,
    rows: rows_lib.Rows,
  ) -> Float[Array, 'pairs embed']:
    """States above the layer, of pairs whose keys the cache holds.

    Args:
      hidden: states below the layer.
      query: of each, from `project_token`.
      cache: of the layer.
      bias: [pairs, heads, target], position bias and mask of each.
      rows: the row of the batch that each pair belongs to.
    """
    i, constants = self.number - 1, self.call.constants
    return self.method(
      hidden,
      query,
      cache.keys,
      cache.values,
      bias,
      constants.cross_keys[i],
      constants.cross_values[i],
      constants.cross_bias,
      rows,
      method='block',
    )

  def shown(
    self,
    states: Float[Array, 'pairs embed'],
    pairs: owed.Pairs,
    cache: decoder_state.DecoderCache,
  ) -> decoder_state.DecoderCache:
    """The caches, once the measure has seen states above the layer."""
    passed = confidence.Passed(
      layer=self.number,
      num_layers=self.num_layers,
      states=states,
      pairs=pairs,
      params=self.params,
      sequence_state=cache.measure_state,
    )
    return cache.replace(measure_state=self.measure.see(passed))
