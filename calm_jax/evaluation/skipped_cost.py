"""Operations for a layer that a token skipped, when a later token enters it.

ModelDescription.skipped_layers -> SkippedCost -> flops, cost_model

Symbols as in `flops`: d width, a = heads x head_dim. One multiplication counts
as 2 operations.
"""

import abc
import dataclasses

import numpy as np

from calm_jax.evaluation import network_sizes
from calm_jax.records import descriptions

NetworkSizes = network_sizes.NetworkSizes


class SkippedCost(abc.ABC):
  """What one position costs a layer that it skipped."""

  @abc.abstractmethod
  def __call__(
    self,
    sizes: NetworkSizes,
    positions: np.ndarray,
    source_lengths: np.ndarray,
  ) -> np.ndarray:
    """Operations of each layer, [L, ...].

    Args:
      sizes: of the network.
      positions: from 1, of the positions that skipped.
      source_lengths: tokens of their sources; shaped to go with positions.
    """


@dataclasses.dataclass(frozen=True)
class Projected(SkippedCost):
  """Keys and values of a state: 4 d a."""

  def __call__(self, sizes, positions, source_lengths):
    shape = np.broadcast_shapes(np.shape(positions), np.shape(source_lengths))
    own = np.full(shape, key_value(sizes))
    return np.stack([own] * sizes.num_decoder_layers)


@dataclasses.dataclass(frozen=True)
class Run(SkippedCost):
  """The layer itself."""

  def __call__(self, sizes, positions, source_lengths):
    own = layer(sizes, positions, source_lengths)
    return np.stack([own] * sizes.num_decoder_layers)


def cost_of(choice: descriptions.Description) -> SkippedCost | None:
  """The cost of what skipped layers see; None for one of the user's own."""
  return _COSTS.get(choice.kind)


def key_value(sizes: NetworkSizes) -> float:
  """Keys and values of one state in one layer."""
  return 4.0 * sizes.emb_dim * sizes.attention_dim


def attention(
  sizes: NetworkSizes, positions: np.ndarray, source_lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Self- and cross-attention of one layer for one token."""
  dim, width = sizes.emb_dim, sizes.attention_dim
  self_attention = 8.0 * dim * width + 4.0 * width * positions
  return self_attention, 4.0 * dim * width + 4.0 * width * source_lengths


def feed_forward(sizes: NetworkSizes) -> float:
  """The feed-forward block of one layer for one token."""
  return 2.0 * (sizes.num_mlp_inputs + 1) * sizes.emb_dim * sizes.mlp_dim


def layer(
  sizes: NetworkSizes, positions: np.ndarray, source_lengths: np.ndarray
) -> np.ndarray:
  """A whole layer for one token."""
  own, cross = attention(sizes, positions, source_lengths)
  return own + cross + feed_forward(sizes)


_COSTS: dict[str, SkippedCost] = {
  'ProjectExitState': Projected(),
  'FirstExitState': Projected(),
  'TrueStates': Run(),
}
