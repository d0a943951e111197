"""Multi-head attention of T5: over whole sequences, and over cached positions.

Both routes share the same four kernels. The whole-sequence route trains and
scores; the incremental route decodes against caches that it does not own, so
that a caller decides when and from which state a cached row is written (which
is what early exit is about).

Cached keys are [batch, heads, head_dim, length], values [batch, heads, length,
head_dim]: the layouts whose products were the fastest on XLA's CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from calm_jax.t5 import layers
from calm_jax.t5 import rows as rows_lib

_KERNEL_INIT = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')


class MultiHeadDotProductAttention(nn.Module):
  """Attention with T5's kernels: 2-D, no biases, no scaling of the logits.

  The factor 1/sqrt(head_dim) lives in the query kernel's initializer, as in
  T5X, so trained checkpoints need no scaling at run time.
  """

  num_heads: int
  head_dim: int
  emb_dim: int
  dtype: jnp.dtype = jnp.float32
  dropout_rate: float = 0.0
  float32_logits: bool = False

  def setup(self):
    features = self.num_heads * self.head_dim

    def dense(init=_KERNEL_INIT):
      return layers.Dense(features, ('embed', 'joined_kv'), self.dtype, init)

    self.query = dense(_scaled(_KERNEL_INIT, 1 / np.sqrt(self.head_dim)))
    self.key = dense()
    self.value = dense()
    self.out = layers.Dense(
      self.emb_dim, ('joined_kv', 'embed'), self.dtype, _KERNEL_INIT
    )

  def __call__(
    self,
    inputs_q: jax.Array,
    inputs_kv: jax.Array,
    bias: jax.Array | None,
    *,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Attends over whole sequences.

    Args:
      inputs_q: [batch, q_length, embed].
      inputs_kv: [batch, kv_length, embed].
      bias: added to the logits, [batch or 1, heads or 1, q_length, kv_length].
      enable_dropout: drop attention weights (rng stream `dropout`).

    Returns:
      [batch, q_length, embed].
    """
    query = self._split(self.query(inputs_q))
    key = self._split(self.key(inputs_kv))
    value = self._split(self.value(inputs_kv))
    logits = jnp.einsum('bqhd,bkhd->bhqk', *self._logit_dtype(query, key))
    weights = _softmax(logits, bias, self.dtype)
    weights = self._drop_weights(weights, enable_dropout)
    attended = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    return self.out(_merge_heads(attended))

  def project_key_value(
    self, inputs_kv: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Keys and values in the cached layout.

    Args:
      inputs_kv: [batch, length, embed].

    Returns:
      keys [batch, heads, head_dim, length], values [batch, heads, length,
      head_dim].
    """
    key = self._split(self.key(inputs_kv))
    value = self._split(self.value(inputs_kv))
    return key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)

  def project_token(
    self, inputs: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value of one token per row, by joined kernels if any.

    Args:
      inputs: [batch, embed].

    Returns:
      query [batch, heads, head_dim], key [batch, heads, head_dim, 1], value
      [batch, heads, 1, head_dim].
    """
    parts = layers.joined_product(self, 'query_key_value', inputs, 3) or [
      dense(inputs) for dense in (self.query, self.key, self.value)
    ]
    query, key, value = map(self._split, parts)
    return query, key[..., None], value[:, :, None]

  def project_query(self, inputs_q: jax.Array) -> jax.Array:
    """[batch, embed] -> [batch, heads, head_dim]."""
    return self._split(self.query(inputs_q))

  def attend_cached(
    self,
    query: jax.Array,
    cached_key: jax.Array,
    cached_value: jax.Array,
    bias: jax.Array,
    rows: rows_lib.Rows | None = None,
  ) -> jax.Array:
    """Attends with some queries over cached keys and values of their rows.

    Args:
      query: [queries, heads, head_dim].
      cached_key: [batch, heads, head_dim, length].
      cached_value: [batch, heads, length, head_dim].
      bias: [queries or 1, heads or 1, length]; masks positions not to be
        attended to.
      rows: the row of the batch that each query belongs to; one query for each
        row if None.

    Returns:
      [queries, embed].
    """
    caches = (cached_key, cached_value)
    if rows is None or rows.is_whole:
      attended = self._attend(query, *caches, bias)
    elif len(cached_key) == 1:
      attended = self._attend_together(query, *(x[0] for x in caches), bias)
    else:
      attended = rows.for_each(
        lambda i, row, attended: lax.dynamic_update_slice_in_dim(
          attended,
          self._attend(
            lax.dynamic_slice_in_dim(query, i, 1),
            *(lax.dynamic_slice_in_dim(x, row, 1) for x in caches),
            bias if len(bias) == 1 else lax.dynamic_slice_in_dim(bias, i, 1),
          ),
          i,
          axis=0,
        ),
        jnp.zeros_like(query),
      )
    return self.out(_merge_heads(attended))

  def _attend(self, query, cached_key, cached_value, bias):
    logits = jnp.einsum('bhd,bhdk->bhk', *self._logit_dtype(query, cached_key))
    weights = _softmax(logits, bias, self.dtype)
    return jnp.einsum('bhk,bhkd->bhd', weights, cached_value)

  def _attend_together(self, query, cached_key, cached_value, bias):
    """All queries over the caches of one row: one product for each head."""
    logits = jnp.einsum('qhd,hdk->qhk', *self._logit_dtype(query, cached_key))
    weights = _softmax(logits, bias, self.dtype)
    return jnp.einsum('qhk,hkd->qhd', weights, cached_value)

  def _split(self, projected: jax.Array) -> jax.Array:
    # [..., heads * head_dim] -> [..., heads, head_dim]
    return projected.reshape(
      *projected.shape[:-1], self.num_heads, self.head_dim
    )

  def _logit_dtype(self, *arrays: jax.Array) -> list[jax.Array]:
    if not self.float32_logits:
      return list(arrays)
    return [array.astype(jnp.float32) for array in arrays]

  def _drop_weights(self, weights, enable_dropout):
    # [batch, heads, q_length, kv_length]: one mask for all queries, as in T5X.
    if not enable_dropout or self.dropout_rate == 0.0:
      return weights
    keep_prob = 1.0 - self.dropout_rate
    shape = (*weights.shape[:-2], 1, weights.shape[-1])
    keep = jax.random.bernoulli(self.make_rng('dropout'), keep_prob, shape)
    return weights * keep.astype(weights.dtype) / keep_prob


def _softmax(logits, bias, dtype):
  if bias is not None:
    logits = logits + bias.astype(logits.dtype)
  return jax.nn.softmax(logits).astype(dtype)


def _merge_heads(attended):
  # [..., heads, head_dim] -> [..., heads * head_dim]
  return attended.reshape(*attended.shape[:-2], -1)


def _scaled(init, factor):
  return lambda *args: init(*args) * factor
