"""A kind of exit classifier outside calm_jax: one direction, read by layer.

my_classifier_train.gin trains it, my_classifier.gin decodes with it;
docs/extending.md explains both.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class LayerScaled:
  """CALM's linear unit with a scale and a bias for each layer.

  The layers share d weights, as CALM's do, but need not be equally sure: 2 more
  numbers per layer. States are divided by their root mean square first.

  Attributes:
    name: of its parameters, params['exit_classifiers'][name].
  """

  name: str = 'layer_scaled'

  # It looks at the current state alone; see classifiers.Attention for one that
  # looks at all states of its layer.
  attends = False

  def module(self, num_layers):
    return _Module(num_layers)


class _Module(nn.Module):
  """Logits of "this layer's best token is the last layer's", layers 1..L-1."""

  num_layers: int

  def setup(self):
    self.direction = nn.Dense(1, use_bias=False)
    shape = (self.num_layers - 1,)
    self.scale = self.param('scale', nn.initializers.ones, shape)
    self.bias = self.param('bias', nn.initializers.zeros, shape)

  def __call__(self, states, layer):
    """Training: [batch, length, embed] above a layer -> [batch, length]."""
    states = states.astype(jnp.float32)
    size = jnp.sqrt(jnp.mean(jnp.square(states), axis=-1) + 1e-6)
    projected = self.direction(states)[..., 0] / size
    return self.scale[layer - 1] * projected + self.bias[layer - 1]

  def step(self, hidden, layer):
    """Decoding: [rows, embed] of one position -> [rows]."""
    return self(hidden, layer)
