"""Parameterized layers shared by encoder and decoder, with T5X's names.

Parameters are declared with their logical axis names (collection
`params_axes`), so that partitioning rules written for T5X apply unchanged.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax import lax

from calm_jax import errors
from calm_jax.t5 import masks

Initializer = Callable[..., jax.Array]

DENSE_INIT = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


class Dense(nn.Module):
  """A linear map without bias; the kernel is stored as [in, out].

  Attributes:
    features: size of the output.
    kernel_axes: logical names of the kernel's two axes.
    dtype: type of the computation (parameters stay float32).
    kernel_init: initializer of the kernel.
  """

  features: int
  kernel_axes: tuple[str, str]
  dtype: jnp.dtype = jnp.float32
  kernel_init: Initializer = DENSE_INIT

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    # [..., in] -> [..., features]
    kernel = nn_partitioning.param_with_axes(
      'kernel',
      self.kernel_init,
      (inputs.shape[-1], self.features),
      jnp.float32,
      axes=self.kernel_axes,
    )
    return _matmul(inputs.astype(self.dtype), kernel.astype(self.dtype))


def _matmul(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  """[..., in] x [in, out] -> [..., out], as a product of two matrices.

  XLA's CPU backend differentiates a product of matrices a third faster than
  one with the batch and the length as separate axes.
  """
  rows = inputs.reshape(-1, inputs.shape[-1])
  return jnp.dot(rows, kernel).reshape(*inputs.shape[:-1], kernel.shape[-1])


def joined_product(
  module: nn.Module, name: str, inputs: jax.Array, count: int
) -> list[jax.Array] | None:
  """A module's product with a joined kernel (`t5.joined`), in its parts.

  Args:
    module: a bound module with a `dtype`.
    name: of the kernel in the collection `joined`.
    inputs: [..., embed].
    count: number of kernels that were joined.

  Returns:
    The products with each of them, or None if the module has no such kernel.
  """
  if not module.has_variable('joined', name):
    return None
  kernel = module.get_variable('joined', name).astype(module.dtype)
  return jnp.split(_matmul(inputs.astype(module.dtype), kernel), count, axis=-1)


class LayerNorm(nn.Module):
  """T5's layer norm: divides by the root mean square; no mean, no bias."""

  dtype: jnp.dtype = jnp.float32
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    # [..., embed] -> [..., embed]; the statistics stay in float32.
    inputs = inputs.astype(jnp.float32)
    mean_square = jnp.mean(lax.square(inputs), axis=-1, keepdims=True)
    scale = nn_partitioning.param_with_axes(
      'scale',
      nn.initializers.ones,
      (inputs.shape[-1],),
      jnp.float32,
      axes=('embed',),
    )
    normalized = inputs * lax.rsqrt(mean_square + self.epsilon)
    return normalized.astype(self.dtype) * scale.astype(self.dtype)


class Embed(nn.Module):
  """The token embedding, also usable as the output embedding."""

  num_embeddings: int
  features: int
  dtype: jnp.dtype = jnp.float32

  def setup(self):
    self.embedding = nn_partitioning.param_with_axes(
      'embedding',
      nn.initializers.normal(stddev=1.0),
      (self.num_embeddings, self.features),
      jnp.float32,
      axes=('vocab', 'embed'),
    )

  def __call__(self, token_ids: jax.Array) -> jax.Array:
    # [...] -> [..., embed]
    return jnp.asarray(self.embedding, self.dtype)[token_ids]

  def attend(self, query: jax.Array) -> jax.Array:
    # [..., embed] -> [..., vocab]
    # Logits are float32 whatever the type of the network, as in T5X.
    return _matmul(query.astype(jnp.float32), self.embedding.T)


class RelativePositionBiases(nn.Module):
  """Learned attention bias of each head for each relative position bucket."""

  num_heads: int
  bidirectional: bool
  dtype: jnp.dtype = jnp.float32
  num_buckets: int = 32
  max_distance: int = 128

  def setup(self):
    self.rel_embedding = nn_partitioning.param_with_axes(
      'rel_embedding',
      nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform'),
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=('heads', 'relpos_buckets'),
    )

  def __call__(self, query_length: int, key_length: int) -> jax.Array:
    # -> [1, heads, query, key]
    buckets = masks.relative_position_buckets(
      query_length,
      key_length,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return self.rel_embedding.astype(self.dtype)[:, buckets][None]


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  # T5 1.1 was trained with the tanh approximation of GELU.
  'gelu': lambda x: nn.gelu(x, approximate=True),
  'relu': nn.relu,
  'linear': lambda x: x,
}


def _activation(name: str) -> Callable[[jax.Array], jax.Array]:
  if name not in _ACTIVATIONS:
    raise errors.ConfigError(
      f'Each of mlp_activations must be one of {", ".join(_ACTIVATIONS)}, got'
      f' {name!r}.'
    )
  return _ACTIVATIONS[name]


class MlpBlock(nn.Module):
  """The feed-forward block; several activations are multiplied (gated).

  Parameters are `wi` for one activation, else `wi_0`, `wi_1`, ..., and `wo`.
  """

  intermediate_dim: int
  activations: Sequence[str] = ('relu',)
  dropout_rate: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, inputs: jax.Array, *, enable_dropout: bool = False
  ) -> jax.Array:
    # [..., embed] -> [..., embed]
    count = len(self.activations)
    names = [f'wi_{i}' for i in range(count)] if count > 1 else ['wi']
    projected = joined_product(self, 'wi', inputs, count) or [
      Dense(self.intermediate_dim, ('embed', 'mlp'), self.dtype, name=name)(
        inputs
      )
      for name in names
    ]
    hidden = 1.0
    for activation, part in zip(self.activations, projected, strict=True):
      hidden = hidden * _activation(activation)(part)
    hidden = Dropout(self.dropout_rate)(hidden, enable_dropout)
    return Dense(inputs.shape[-1], ('mlp', 'embed'), self.dtype, name='wo')(
      hidden
    )


class Dropout(nn.Module):
  """Dropout of whole features of a row: one mask for all its positions."""

  rate: float

  @nn.compact
  def __call__(self, inputs: jax.Array, enable_dropout: bool) -> jax.Array:
    if not enable_dropout or self.rate == 0.0:
      return inputs
    return nn.Dropout(rate=self.rate, broadcast_dims=(-2,))(
      inputs, deterministic=False
    )
