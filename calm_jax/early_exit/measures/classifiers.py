"""Exit classifiers: small trained networks that say how sure a layer is.

    states of one layer, up to the current position -> logit of
    "this layer's best token is the last layer's"

Linear as in CALM (Sec. 3.5), with a hidden layer, or with one layer of causal
attention over all states of that layer. They read states above a decoder layer,
before the final norm. Their parameters stand in the network's tree as
params['exit_classifiers'][name], so checkpoints carry them along.

What DL2-CALM's attention head did differently (and wrong): it thresholded the
probability of disagreement, trained on labels shifted by one layer, projected
twice in a row, and read uninitialized memory for tokens that had left.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from calm_jax import errors

PARAMS = 'exit_classifiers'


@dataclasses.dataclass(frozen=True)
class _Classifier:
  """What all kinds have in common; see the kinds for their attributes."""

  attends: ClassVar[bool] = False

  def module(self, num_layers: int) -> 'ExitClassifier':
    """The Flax module for a decoder of L layers."""
    return ExitClassifier(self, num_layers)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Linear(_Classifier):
  """One linear unit: d weights and a bias, shared by all layers (CALM).

  Attributes:
    name: of its parameters.
    norm: divide states by their root mean square first, without parameters.
      CALM does not, but states of different layers differ in size (4 times in
      the shipped model), so that training takes longer.
    per_layer: parameters of its own for each layer 1..L-1.
  """

  name: str = 'linear'
  norm: bool = False
  per_layer: bool = False

  @property
  def hidden_dims(self) -> tuple[int, ...]:
    return ()


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Mlp(_Classifier):
  """A hidden layer with ReLU before the linear unit.

  Attributes:
    name, norm, per_layer: as for `Linear`.
    hidden_dim: width of the hidden layer.
  """

  name: str = 'mlp'
  hidden_dim: int = 256
  norm: bool = True
  per_layer: bool = False

  @property
  def hidden_dims(self) -> tuple[int, ...]:
    return (self.hidden_dim,)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Attention(_Classifier):
  """One layer of causal attention over the states of a layer, then a head.

  Attributes:
    name, norm, per_layer: as for `Linear`.
    width: of queries, keys and values together.
    num_heads: attention heads.
    head_hidden_dims: hidden layers of the head; () for a linear one.
    residual: a projection of the current state joins what it attended to.
    layer_embedding: a learned vector per layer joins too.

  Raises:
    ConfigError: the heads do not divide the width.
  """

  name: str = 'attention'
  width: int = 64
  num_heads: int = 4
  head_hidden_dims: Sequence[int] = ()
  norm: bool = True
  residual: bool = True
  layer_embedding: bool = True
  per_layer: bool = False

  attends: ClassVar[bool] = True

  def __post_init__(self):
    object.__setattr__(self, 'head_hidden_dims', tuple(self.head_hidden_dims))
    if self.num_heads < 1 or self.width % self.num_heads:
      raise errors.ConfigError(
        'Attention.num_heads must divide its width, got'
        f' {self.num_heads} heads and a width of {self.width}.'
      )

  @property
  def hidden_dims(self) -> tuple[int, ...]:
    return self.head_hidden_dims


class _Core(nn.Module):
  """One set of parameters; `kind` is one of the dataclasses above."""

  kind: Any
  num_layers: int

  def setup(self):
    if self.kind.attends:
      for name in ('query', 'key', 'value'):
        setattr(self, name, nn.Dense(self.kind.width, use_bias=False))
      if self.kind.residual:
        self.state = nn.Dense(self.kind.width, use_bias=False)
      if self.kind.layer_embedding:
        self.layer_embedding = self.param(
          'layer_embedding',
          nn.initializers.normal(0.02),
          (self.num_layers - 1, self.kind.width),
        )
    self.hidden = [nn.Dense(width) for width in self.kind.hidden_dims]
    self.output = nn.Dense(1)

  def normalized(self, states):
    states = states.astype(jnp.float32)
    if not self.kind.norm:
      return states
    mean_square = jnp.mean(jnp.square(states), axis=-1, keepdims=True)
    # A scale per dimension would say nothing that the next kernel cannot.
    return states * jax.lax.rsqrt(mean_square + 1e-6)

  def head(self, features):
    # [..., features] -> [...]
    for dense in self.hidden:
      features = nn.relu(dense(features))
    return self.output(features)[..., 0]

  def joined(self, attended, normalized, layer):
    # [..., width] what was attended to, [..., embed] the state itself
    if self.kind.residual:
      attended = attended + self.state(normalized)
    if self.kind.layer_embedding:
      attended = attended + self.layer_embedding[layer - 1]
    return attended

  def split(self, projected):
    # [..., width] -> [..., heads, head_dim]
    return projected.reshape(*projected.shape[:-1], self.kind.num_heads, -1)


class ExitClassifier(nn.Module):
  """A classifier for all layers, whole sequences and single tokens.

  Attributes:
    kind: one of the dataclasses of this module.
    num_layers: L of the decoder; layer L itself needs no classifier.
  """

  kind: Any
  num_layers: int

  def setup(self):
    count = self.num_layers - 1 if self.kind.per_layer else 1
    self.cores = [_Core(self.kind, self.num_layers) for _ in range(count)]

  def __call__(
    self, states: Float[Array, 'batch length embed'], layer: int
  ) -> Float[Array, 'batch length']:
    """Logits of agreement with the last layer, teacher-forced and causal.

    Args:
      states: above decoder layer `layer`; a position that left below it holds
        the state in which it left.
      layer: 1..L-1.

    Returns:
      Logits; the confidence is their sigmoid.
    """
    core = self._core(layer)
    normalized = core.normalized(states)
    if not self.kind.attends:
      return core.head(normalized)
    query, key, value = (
      core.split(project(normalized))
      for project in (core.query, core.key, core.value)
    )
    logits = jnp.einsum('bqhd,bkhd->bhqk', query, key) / _scale(query)
    causal = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(causal, logits, -jnp.inf))
    attended = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    attended = attended.reshape(*attended.shape[:2], -1)
    return core.head(core.joined(attended, normalized, layer))

  def project_key_value(
    self, states: Float[Array, 'batch length embed'], layer: int
  ) -> tuple[jax.Array, jax.Array]:
    """Keys [batch, heads, head_dim, length] and values [batch, heads, length,
    head_dim] of positions, for the caches of `step`."""
    core = self._core(layer)
    normalized = core.normalized(states)
    key = core.split(core.key(normalized)).transpose(0, 2, 3, 1)
    return key, core.split(core.value(normalized)).transpose(0, 2, 1, 3)

  def step(
    self,
    hidden: Float[Array, 'batch embed'],
    layer: int,
    keys: Float[Array, 'batch heads kv target'] | None = None,
    values: Float[Array, 'batch heads target kv'] | None = None,
    is_seen: Bool[Array, '#batch target'] | None = None,
  ) -> Float[Array, ' batch']:
    """Logits of one position, from caches in time linear in the position.

    Args:
      hidden: the state of this position above `layer`.
      layer: 1..L-1.
      keys, values: what `project_key_value` gave of positions up to this one;
        only for kinds that attend.
      is_seen: where these lie.
    """
    core = self._core(layer)
    normalized = core.normalized(hidden)
    if not self.kind.attends:
      return core.head(normalized)
    query = core.split(core.query(normalized))
    logits = jnp.einsum('bhd,bhdk->bhk', query, keys) / _scale(query)
    logits = jnp.where(is_seen[:, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits)
    attended = jnp.einsum('bhk,bhkd->bhd', weights, values)
    attended = attended.reshape(attended.shape[0], -1)
    return core.head(core.joined(attended, normalized, layer))

  def _core(self, layer: int) -> _Core:
    return self.cores[layer - 1 if self.kind.per_layer else 0]


def _scale(query):
  return jnp.sqrt(jnp.float32(query.shape[-1]))


def init_params(
  kind: _Classifier, rng: jax.Array, emb_dim: int, num_layers: int
) -> dict[str, Any]:
  """Fresh parameters of a classifier."""

  def all_layers(module, states):
    return [module(states, layer) for layer in range(1, num_layers)]

  variables = kind.module(num_layers).init(
    rng, jnp.zeros((1, 1, emb_dim)), method=all_layers
  )
  return nn.unbox(variables['params'])


def num_parameters(kind: _Classifier, emb_dim: int, num_layers: int) -> int:
  """Scalars of a classifier, counted by hand: the table in the docs."""
  count, features = 0, emb_dim
  if kind.attends:
    features = kind.width
    count += (3 + kind.residual) * emb_dim * features
    count += kind.layer_embedding * (num_layers - 1) * features
  for width in (*kind.hidden_dims, 1):
    count += (features + 1) * width
    features = width
  return count * (num_layers - 1 if kind.per_layer else 1)
