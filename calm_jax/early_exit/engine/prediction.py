"""The most probable token of some logits, how probable, and a drawn one.

First step after a layer's logits: `confidence` and `top_k` build on it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

# logits [batch, candidates], log_rest -> index [batch], log-probability [batch]
Chooser = Callable[..., tuple[jax.Array, jax.Array]]


@struct.dataclass
class Prediction:
  """What one layer makes of each row's next token.

  Attributes:
    token: [batch] int32, the token to be written: the best one when decoding
      greedily, a drawn one when sampling.
    log_prob: [batch] float32, natural log-probability of `token`.
    best: [batch] int32, the most probable token; the lowest id among equals.
    gap: [batch] float32, the best token's probability minus the second best's.
  """

  token: Int[Array, ' batch']
  log_prob: Float[Array, ' batch']
  best: Int[Array, ' batch']
  gap: Float[Array, ' batch']

  @classmethod
  def zeros(cls, batch_size: int) -> 'Prediction':
    """Stands for "not computed"."""
    zeros = jnp.zeros((batch_size,), jnp.float32)
    ids = zeros.astype(jnp.int32)
    return cls(token=ids, log_prob=zeros, best=ids, gap=zeros)

  def mapped(self, ids: Int[Array, 'batch candidates']) -> 'Prediction':
    """The same prediction, its indices replaced by the candidates' ids."""

    def id_of(index):
      return jnp.take_along_axis(ids, index[:, None], axis=1)[:, 0]

    return self.replace(token=id_of(self.token), best=id_of(self.best))


def largest(logits: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`lax.top_k`, by way of blocks where the rows are long.

  The k largest lie in the k blocks with the largest maxima, and a maximum is
  found ten times faster than two of the largest. Among equals the lowest id is
  first, as in `lax.top_k`: blocks are kept in their order.

  Args:
    logits: [batch, candidates].
    k: at most `candidates`.

  Returns:
    The values, descending, and their ids; [batch, k] each.
  """
  batch, size = logits.shape
  block = _block_size(size, k)
  if not block:
    return _top_k(logits, k)
  in_blocks = logits.reshape(batch, -1, block)
  _, blocks = _top_k(jnp.max(in_blocks, axis=-1), k)
  blocks = jnp.sort(blocks, axis=-1)
  taken = jnp.take_along_axis(in_blocks, blocks[..., None], axis=1)
  values, places = _top_k(taken.reshape(batch, k * block), k)
  first_ids = jnp.take_along_axis(blocks, places // block, axis=1) * block
  return values, first_ids + places % block


def _top_k(values, k):
  """`lax.top_k`, kept one operation however its results are used.

  On CPU it becomes a sort of the whole row as soon as a result is sliced (9 ms
  instead of 0.13 for 32,128 logits). One barrier each: around the pair of them
  it stops XLA's compiler on several devices.
  """
  values, ids = lax.top_k(values, k)
  return lax.optimization_barrier(values), lax.optimization_barrier(ids)


def _block_size(size: int, k: int) -> int:
  """The largest of a few divisors with k blocks an eighth of all at most."""
  fitting = (
    b for b in (128, 64, 32, 16) if size % b == 0 and 8 * k * b <= size
  )
  return next(fitting, 0)


def predict(
  logits: Float[Array, 'batch candidates'],
  log_rest: Float[Array, ' batch'] | None = None,
  choose: Chooser | None = None,
) -> Prediction:
  """Best token, its log-probability and the top-two gap, without a full sort.

  Args:
    logits: of the whole vocabulary, or of some candidates, at least two.
    log_rest: log-sum-exp of the logits that are not among the candidates; none
      are left out if None.
    choose: draws the token from the candidates; the best one if None.

  Returns:
    The prediction; its ids are positions among the candidates.
  """
  logits = logits.astype(jnp.float32)
  values, ids = largest(logits, 2)
  # The normalizer of probabilities; subtracting the maximum keeps it finite.
  normalizer = jnp.sum(jnp.exp(logits - values[:, :1]), axis=-1)
  if log_rest is not None:
    normalizer += jnp.exp(log_rest - values[:, 0])
  ratio = jnp.exp(values[:, 1] - values[:, 0])
  token, log_prob = ids[:, 0], -jnp.log(normalizer)
  if choose is not None:
    token, log_prob = choose(logits, log_rest)
  return Prediction(
    token=token,
    log_prob=log_prob,
    best=ids[:, 0],
    gap=(1.0 - ratio) / normalizer,
  )
