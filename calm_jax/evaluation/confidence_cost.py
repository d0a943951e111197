"""What it costs to measure confidence, for every measure: objects of `flops`.

    exits, sizes -> operations of the measurements up to each exit

A measurement that scores tokens costs 2 d operations per column of the output
embedding that it takes (CALM Sec. 3.5): all V of them for the softmax measures,
K for later exits of top-k token propagation. Measures without logits need the
whole embedding once, to choose the token. At the last layer nothing is left to
decide, so only the token is chosen there.

Symbols: d width of the states, V vocabulary, t position from 1, w width of an
attention classifier. `measure_costs` knows which measure costs what.
"""

import abc
import dataclasses

import numpy as np

from calm_jax.evaluation import network_sizes


class ConfidenceCost(abc.ABC):
  """The cost of one confidence measure; E exits, the last at layer L."""

  @abc.abstractmethod
  def output_embedding(
    self, sizes: network_sizes.NetworkSizes, exits: tuple[int, ...]
  ) -> np.ndarray:
    """Operations with the output embedding of a token, its choice included.

    Returns:
      [E]: of a token that leaves at the first, second, ... exit.
    """

  def beside(
    self,
    sizes: network_sizes.NetworkSizes,
    exits: tuple[int, ...],
    positions: np.ndarray,
  ) -> np.ndarray:
    """All other operations of the measurements.

    Args:
      sizes: of the network.
      exits: layers after which a token may leave, ascending, the last is L.
      positions: [...] from 1.

    Returns:
      [..., E]: of a token that leaves at the first, second, ... exit.
    """
    each = self.per_measurement(sizes, positions)[..., None]
    return each * self._measurements(exits)

  def per_measurement(
    self, sizes: network_sizes.NetworkSizes, positions: np.ndarray
  ) -> np.ndarray:
    """[...] positions -> [...] operations of one, without the embedding."""
    del sizes
    return np.zeros(np.shape(positions))

  def per_skipped_exit(self, sizes: network_sizes.NetworkSizes) -> float:
    """Operations for a token that left below an exit where a later one is
    measured: what the measure must know of it there."""
    del sizes
    return 0.0

  def _measurements(self, exits: tuple[int, ...]) -> np.ndarray:
    """[E]: how often it measured until each exit; never at the last layer."""
    return np.minimum(np.arange(1, len(exits) + 1), len(exits) - 1)


@dataclasses.dataclass(frozen=True)
class ChosenOnly(ConfidenceCost):
  """No measurement: the full model, a static exit, or an oracle for free."""

  def output_embedding(self, sizes, exits):
    return np.full(len(exits), 2.0 * sizes.emb_dim * sizes.vocab_size)


@dataclasses.dataclass(frozen=True)
class WholeSoftmax(ConfidenceCost):
  """The whole vocabulary at every exit: gap, maximum, entropy, patience."""

  def output_embedding(self, sizes, exits):
    product = 2.0 * sizes.emb_dim * sizes.vocab_size
    return product * np.arange(1, len(exits) + 1)


@dataclasses.dataclass(frozen=True)
class TopK(ConfidenceCost):
  """Top-k token propagation: the vocabulary once, then K columns per exit.

  Attributes:
    k: columns at the exits after the first K were taken; as a tuple, exit by
      exit, the last for all further ones.
    taken_at: first layer at which K may be taken; None for the first exit.
    last_layer_from_k: whether the last layer scores K columns only.
  """

  k: int | tuple[int, ...]
  taken_at: int | None = None
  last_layer_from_k: bool = False

  def output_embedding(self, sizes, exits):
    ks = self.k if isinstance(self.k, tuple) else (self.k,)
    columns: list[float] = []
    num_scored = 0
    for exit_layer in exits:
      is_last = exit_layer == exits[-1]
      taken = bool(num_scored) and ks[0] < sizes.vocab_size
      if taken and (self.last_layer_from_k or not is_last):
        columns.append(ks[min(num_scored, len(ks)) - 1])
      elif is_last:
        columns.append(sizes.vocab_size)
      else:
        columns.append(self._first_columns(sizes))
      if num_scored or exit_layer >= (self.taken_at or 1):
        num_scored += 1
    return 2.0 * sizes.emb_dim * np.cumsum(columns)

  def _first_columns(self, sizes: network_sizes.NetworkSizes) -> float:
    """Columns at an exit that has no K yet."""
    return sizes.vocab_size


@dataclasses.dataclass(frozen=True)
class ScreenedTopK(TopK):
  """Top-k token propagation whose first exit scores what a preview proposes.

  The preview takes the state along d directions, r of which lead to all tokens:
  2 d d + 2 r V operations, then C columns.

  Attributes:
    rank: r.
    num_candidates: C.
  """

  rank: int = 0
  num_candidates: int = 0

  def _first_columns(self, sizes):
    per_column = self.rank / sizes.emb_dim
    preview = sizes.emb_dim + per_column * sizes.vocab_size
    return preview + self.num_candidates


@dataclasses.dataclass(frozen=True)
class Saturation(ChosenOnly):
  """The cosine of two states: three dot products, from layer 2 on."""

  def per_measurement(self, sizes, positions):
    return np.full(np.shape(positions), 6.0 * sizes.emb_dim)

  def _measurements(self, exits):
    return super()._measurements(exits) - (exits[0] == 1 < len(exits))


@dataclasses.dataclass(frozen=True)
class Classifier(ChosenOnly):
  """An exit classifier of the current state: linear, or with a hidden layer.

  Attributes:
    hidden_dims: widths of the hidden layers; none is d weights and a bias.
  """

  hidden_dims: tuple[int, ...] = ()

  def per_measurement(self, sizes, positions):
    return np.full(
      np.shape(positions), _dense((sizes.emb_dim, *self.hidden_dims, 1))
    )


@dataclasses.dataclass(frozen=True)
class AttentionClassifier(ChosenOnly):
  """A classifier that attends to the states of all earlier positions.

  Projections 2 d w of the state into query, key and value, one more for the
  residual, 4 t w for the attention over t positions, and the head.

  Attributes:
    width: w.
    hidden_dims: widths of the head's hidden layers.
    residual: whether the projected state joins what was attended to.
  """

  width: int
  hidden_dims: tuple[int, ...] = ()
  residual: bool = True

  def per_measurement(self, sizes, positions):
    width = self.width
    fixed = 2.0 * sizes.emb_dim * width * (3 + self.residual)
    head = _dense((width, *self.hidden_dims, 1))
    return fixed + head + 4.0 * width * np.asarray(positions, np.float64)

  def per_skipped_exit(self, sizes):
    return 4.0 * sizes.emb_dim * self.width  # its key and value


def _dense(dims: tuple[int, ...]) -> float:
  return sum(
    2.0 * inner * outer for inner, outer in zip(dims, dims[1:], strict=False)
  )
