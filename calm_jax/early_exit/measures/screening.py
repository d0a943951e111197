"""Top-k propagation whose first exit does not read the whole output embedding.

    state --rank r--> preview of all logits --C best--> exact logits --K best-->

The product with the whole output embedding is most of what a token that leaves
early costs. Here it is replaced by r directions of that embedding, which are
enough to name C candidates; these are scored exactly, and later exits go on
with the K best of them.

A candidate's logit is exact; whether the best token is a candidate at all, and
what the others weigh, is an estimate (see `benchmarks.screening_recall`).
The guarantee does not rest on it: calibration is on outputs. A Cauchy-Schwarz
bound on what the preview leaves out could certify the best token; it is not
here, because at useful ranks it certifies next to none (docs/measures.md).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gin
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from calm_jax import errors
from calm_jax.early_exit.engine import confidence
from calm_jax.early_exit.measures import top_k
from calm_jax.t5 import network


@struct.dataclass
class Preview:
  """The output embedding, seen along its principal directions.

  D is the width, V the vocabulary, r the rank of the preview.

  Attributes:
    directions: [D, D], orthonormal rows: left singular vectors of the output
      embedding, those of the largest singular values first.
    loadings: [r, V], every token's column along the first r directions.
    variances: [D - r], mean square over the vocabulary of the columns along
      each direction that is left out.
    columns: to score candidates with.
  """

  directions: Float[Array, 'embed embed']
  loadings: Float[Array, 'rank vocab']
  variances: Float[Array, ' rest']
  columns: top_k.OutputColumns

  def logits(
    self, view: confidence.LayerView
  ) -> tuple[Float[Array, 'batch vocab'], Float[Array, ' batch']]:
    """Approximate logits of all tokens, and the log of what they lack.

    With the directions left out, a logit is off by a sum that hardly depends on
    the token's approximate logit. Over the vocabulary it has a variance v that
    is known for every state, and exp() of such an error is exp(v / 2) on
    average if it is normal.

    Returns:
      The logits, and v / 2, to be added to the log-sum-exp of many of them.
    """
    # A direction is scored like a token's column: norm and scale are the same.
    along = view.network(
      view.hidden, self.directions[None], method='logits_of_columns'
    )
    rank = len(self.loadings)
    lacking = jnp.sum(jnp.square(along[:, rank:]) * self.variances, axis=-1)
    return along[:, :rank] @ self.loadings, lacking / 2.0


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ScreenedTopK(top_k.TopKPropagation):
  """Top-k token propagation; the first exit scores C candidates exactly.

  The tokens that are no candidates weigh what the preview says. A token that
  reaches the last layer is chosen from the whole vocabulary exactly, as by
  `TopKPropagation`, so that threshold 1 stays the full model. At exits below
  `taken_at` candidates are proposed again. With a rank of the network's width
  and all tokens as candidates it is `TopKPropagation` up to rounding.

  Attributes:
    rank: directions of the output embedding in the preview.
    num_candidates: C, tokens that the preview proposes.

  Raises:
    ConfigError: as `TopKPropagation`; no direction, or fewer candidates than K.
  """

  rank: int = 64
  num_candidates: int = 256

  def __post_init__(self):
    super().__post_init__()
    if type(self.rank) is not int or self.rank < 1:
      raise errors.ConfigError(
        f'ScreenedTopK.rank must be at least 1, got {self.rank!r}.'
      )
    if type(self.num_candidates) is not int or self.num_candidates < self.k[0]:
      raise errors.ConfigError(
        f'ScreenedTopK.num_candidates must be at least K = {self.k[0]}, which'
        f' are chosen from them, got {self.num_candidates!r}.'
      )

  def check(self, config, params=None):
    super().check(config, params)
    if self.rank > config.emb_dim:
      raise errors.ConfigError(
        f'ScreenedTopK.rank must be at most {config.emb_dim}, the width of the'
        f' network, got {self.rank}.'
      )
    if self.num_candidates > config.vocab_size:
      raise errors.ConfigError(
        f'ScreenedTopK.num_candidates must be at most {config.vocab_size}, the'
        f' size of the vocabulary, got {self.num_candidates}.'
      )

  def prepare(
    self, config: network.T5Config, params: Mapping[str, Any]
  ) -> Preview:
    """The preview of this model's output embedding."""
    columns = top_k.all_columns(config, params)
    return preview_of(columns, self.rank, keep=not config.logits_via_embedding)

  def _from_vocabulary(self, view):
    logits, state = self._candidates(view)
    if view.layer < (self.taken_at or 1):
      return self._answer(view, logits, state).replace(token_state=None)
    if self.k[0] < self.num_candidates:
      logits, state = top_k.best(logits, state, self.k[0])
    else:
      state = state.replace(num_exits=1)
    return self._answer(view, logits, state)

  def _candidates(self, view):
    """Exact logits of what the preview proposes, and the candidates."""
    approximate, lacking = view.prepared.logits(view)
    ids, log_rest = top_k.split(approximate, self.num_candidates)
    state = top_k.Candidates(ids, log_rest + lacking, num_exits=0)
    return self._columns(view).logits(view, ids), state

  def _columns(self, view):
    return view.prepared.columns


def preview_of(
  columns: Float[Array, 'vocab embed'], rank: int, *, keep: bool
) -> Preview:
  """The preview of an output embedding.

  The directions are eigenvectors of the embedding's D x D second moment: the
  singular value decomposition without its V x D factor, which takes seconds.

  Args:
    columns: of all tokens.
    rank: of the preview.
    keep: whether it holds the columns too, rather than take them from the token
      embedding.
  """
  columns = columns.astype(jnp.float32)
  exactly = lax.Precision.HIGHEST
  second_moment = jnp.dot(columns.T, columns, precision=exactly)
  squares, vectors = jnp.linalg.eigh(second_moment / len(columns))
  # Descending; rounding may leave a square below zero.
  directions, squares = vectors[:, ::-1].T, jnp.maximum(squares[::-1], 0.0)
  return Preview(
    directions=directions,
    loadings=jnp.dot(directions[:rank], columns.T, precision=exactly),
    variances=squares[rank:],
    columns=top_k.OutputColumns(columns if keep else None),
  )
