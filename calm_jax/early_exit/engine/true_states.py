"""Skipped layers that run when a later token needs them."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import gin
import jax.numpy as jnp
from jax import lax

from calm_jax import errors
from calm_jax.early_exit.engine import owed, packing, run_if, skipped_layers


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TrueStates(skipped_layers.SkippedLayers):
  """The states that the token would have had, run when they are needed.

  When a token enters a layer, the positions of its row that owe the layer run
  through it in the same pass, as if prefilled, and the measure sees their
  states too. So every state up to an exit is the full model's on the same
  prefix. A pass reads a layer's weights once for several positions.

  A position has passed a layer if and only if it is below the layer's `filled`.
  Rows that leave below a layer go on owing it, in whatever company.

  Attributes:
    per_row: positions of one pass for each row that runs, in a few sizes. What
      is owed beyond the largest follows in further passes of the same entry.
  """

  per_row: Sequence[int] = (16, 4)
  shows_states: ClassVar[bool] = True

  def __post_init__(self):
    # gin gives a list.
    object.__setattr__(self, 'per_row', packing.checked_sizes(self.per_row))
    if not self.per_row:
      raise errors.ConfigError(
        'TrueStates.per_row must have at least one size, such as (16, 4).'
      )

  def enter(self, entry, state):
    call = entry.call
    filled = call.rows.take(entry.cache_of(state.cache).filled)
    owes = jnp.any(state.undecided & (filled < call.clock.time))
    if entry.number <= entry.first_exit:
      # Nothing is owed where every token goes.
      hidden, cache = self._step(entry, state, state.cache)
    else:
      hidden, cache = run_if.run_if(
        ~owes,
        lambda x: self._step(entry, state.replace(hidden=x[0]), x[1]),
        (state.hidden, state.cache),
      )
      hidden, cache = run_if.run_if(
        owes,
        lambda x: self._catch_up(entry, state.replace(hidden=x[0]), x[1]),
        (hidden, cache),
      )
    layer_cache = entry.cache_of(cache).passed(
      call.clock.time, call.rows, state.undecided
    )
    return state.replace(
      hidden=hidden, kept=hidden, cache=entry.with_cache(cache, layer_cache)
    )

  def _step(self, entry, state, cache):
    """The token alone."""
    own = entry.own.replace(is_meant=state.undecided)
    hidden, cache = self._run(
      entry, own, state.hidden, entry.call.self_bias, cache
    )
    hidden = jnp.where(state.undecided[:, None], hidden, state.hidden)
    return hidden, cache

  def _catch_up(self, entry, state, cache):
    """What is owed together with the token, which is the last of its row."""
    call, undecided = entry.call, state.undecided
    slot = call.clock.time % cache.kept_states.shape[1]
    rows = call.rows

    def keep(i, row, states):
      own = lax.dynamic_slice_in_dim(state.hidden, i, 1)[:, None]
      return lax.dynamic_update_slice(states, own, (row, slot, 0))

    cache = cache.replace(kept_states=rows.for_each(keep, cache.kept_states))

    def run(pairs, cache):
      bias = call.constants.self_bias(pairs.clock)
      below = pairs.take(cache.kept_states)
      above, cache = self._run(entry, pairs, below, bias, cache)
      return cache.replace(kept_states=pairs.put(cache.kept_states, above))

    filled = entry.cache_of(cache).filled
    cache = owed.in_chunks(
      run,
      cache,
      filled,
      jnp.where(undecided, call.clock.time + 1, rows.take(filled)),
      rows,
      call.clock.starts,
      self.per_row,
    )
    return cache.kept_states[rows.ids, slot], cache

  def _run(self, entry, pairs, below, bias, cache):
    """Positions through the layer; the measure sees them."""
    query, *own = entry.project_token(below)
    layer_cache = entry.cache_of(cache).written(tuple(own), pairs)
    above = entry.block(below, query, layer_cache, bias, pairs.rows)
    cache = entry.with_cache(cache, layer_cache)
    return above, entry.shown(above, pairs, cache)
