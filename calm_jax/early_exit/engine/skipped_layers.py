"""What the layers that a token skipped see of it, once a later token needs it.

A token that leaves below a layer owes that layer its keys and values. When a
later token of the row enters the layer, they are made from what the token left
behind: the one place where early exit changes what the network computes, and so
most of what it costs in quality.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import gin
import jax.numpy as jnp
from jaxtyping import Array, Float

from calm_jax.early_exit.engine import decoder_state, layer_entry
from calm_jax.t5 import network


class SkippedLayers(abc.ABC):
  """Keeps what a token leaves behind, and makes up for it at a layer.

  Attributes:
    shows_states: whether positions have a state of their own above each layer
      that they skipped. The measure is shown each as it is computed, and what
      is kept of a position is its deepest.
  """

  shows_states: ClassVar[bool] = False

  # By default there is nothing to check.
  def check(  # noqa: B027
    self, config: network.T5Config, params: Mapping[str, Any] | None = None
  ) -> None:
    """Raises ConfigError or DataError where it cannot serve this network.

    Args:
      config: sizes of the network.
      params: its parameters, if they are known.
    """

  @abc.abstractmethod
  def enter(
    self, entry: layer_entry.LayerEntry, state: decoder_state.LayerState
  ) -> decoder_state.LayerState:
    """Runs a layer on the rows that are undecided.

    Args:
      entry: the layer and the token.
      state: below the layer. Rows that have left below it are carried along.

    Returns:
      The state above the layer, with what rows that leave here leave behind in
      `kept`. The layer owes nothing to rows that have passed it.
    """


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ProjectExitState(SkippedLayers):
  """The state in which the token left, as if it had not changed any more.

  Each layer projects it by its own norm and kernels (CALM Sec. 3.3.1).
  """

  def enter(self, entry, state):
    call, below = entry.call, state.hidden
    is_undecided = state.undecided[:, None]
    # The query of a row that has left is not used, and does no harm.
    query, *own = entry.project_token(
      jnp.where(is_undecided, below, state.kept)
    )
    layer_cache = entry.cache_of(state.cache).with_position(
      entry.project, tuple(own), call.clock, state.cache.kept_states, call.rows
    )
    above = entry.block(below, query, layer_cache, call.self_bias, call.rows)
    hidden = jnp.where(is_undecided, above, below)
    return state.replace(
      hidden=hidden,
      kept=self._kept(entry, hidden, state.kept),
      cache=entry.with_cache(state.cache, layer_cache),
    )

  def _kept(
    self,
    entry: layer_entry.LayerEntry,
    hidden: Float[Array, 'rows embed'],
    kept: Float[Array, 'rows embed'],
  ) -> Float[Array, 'rows embed']:
    """What tokens leave behind that leave above a layer, or have left below."""
    del entry, kept
    return hidden


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FirstExitState(ProjectExitState):
  """The state at the first exit, wherever the token left.

  Not what the paper says, but what T5X's released code does; for comparison
  with numbers made by it.
  """

  def _kept(self, entry, hidden, kept):
    return hidden if entry.number <= entry.first_exit else kept
