"""Early exit spelled out, one row, one token and one layer at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from testing import plain_measures

from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import skipped_layers
from calm_jax.t5 import masks, network

LENGTH = 12


# Compiled, because uncompiled layers take minutes; the loop stays plain.
@functools.cache
def _network(config, method):
  module = network.Transformer(config)
  return jax.jit(
    lambda params, *args: module.apply({'params': params}, *args, method=method)
  )


@functools.cache
def _layer(config):
  module = network.DecoderLayer(config)
  return jax.jit(
    lambda params, inputs, encoded, bias, cross_mask: module.apply(
      {'params': params},
      inputs,
      encoded,
      bias,
      masks.mask_to_bias(cross_mask, jnp.float32),
      enable_dropout=False,
    )
  )


@functools.cache
def _biases(config):
  causal = np.tril(np.ones((LENGTH, LENGTH), bool))
  module = network.Transformer(config)
  return jax.jit(
    lambda params: (
      module.apply({'params': params}, LENGTH, method='decoder_position_bias')
      + masks.mask_to_bias(causal, jnp.float32)
    )[None]
  )


class PlainPython:
  """No cache, one row, one token, one layer.

  Every layer is applied to all positions by the whole-sequence route (later
  ones are masked). `inputs[k, s]` is what layer k sees of position s: the state
  below it, or the state in which the token left if it left before.
  """

  def __init__(self, model, params, source):
    self.model, self.params = model, params
    self.config = model.config
    self.source = jnp.asarray(source)[None]
    self.encoded = self._network(self.source, method='encode')
    shape = (self.config.num_decoder_layers, LENGTH, self.config.emb_dim)
    self.inputs = np.zeros(shape, np.float32)

  def _network(self, *args, method):
    return np.asarray(_network(self.config, method)(self.params, *args))

  def _layer(self, k, position):
    params = self.params['decoder'][f'layers_{k}']
    bias = _biases(self.config)(self.params)
    cross_mask = (self.source > 0)[:, None, None, :]
    outputs = _layer(self.config)(
      params, self.inputs[k][None], self.encoded, bias, cross_mask
    )
    return np.asarray(outputs[0, position])

  def token(self, previous, position, threshold):
    """Returns the next token, layers used, confidence, log-probability."""
    hidden = self._network(jnp.int32(previous), method='embed')
    num_layers = self.config.num_decoder_layers
    exits = self.model.exit_layers.layers(num_layers)
    states, at_exits = [hidden], []
    for k in range(num_layers):
      self.inputs[k, position] = states[-1]
      states.append(self._layer(k, position))
      if k + 1 not in exits or k + 1 < self.model.measure.first_layer:
        continue
      logits = self._network(states[-1], method='logits_from_hidden')
      at_exits.append(np.float64(logits))
      answer = plain_measures.answer(
        self.model.measure,
        states,
        at_exits,
        num_layers,
        threshold,
        self.inputs[min(k + 1, num_layers - 1), :position],
        self.params,
      )
      if threshold < 1 and answer.confidence >= threshold:
        break
    if self.model.skipped_layers.shows_states:
      self._states_of_its_own(k + 1, states[-1], position)
    else:
      self.inputs[k + 1 :, position] = states[self._propagated(k + 1, exits)]
    return answer.token, k + 1, answer.confidence, answer.log_prob

  def _states_of_its_own(self, layer, hidden, position):
    for k in range(layer, self.config.num_decoder_layers):
      self.inputs[k, position] = hidden
      hidden = self._layer(k, position)

  def _propagated(self, layer, exits):
    if isinstance(self.model.skipped_layers, skipped_layers.FirstExitState):
      return min(layer, exits[0])
    return layer

  def generate(self, threshold_at):
    tokens, layers, confidences, log_prob = [], [], [], 0.0
    previous = 0
    for position in range(LENGTH):
      previous, used, value, score = self.token(
        previous, position, threshold_at(position)
      )
      tokens.append(previous)
      layers.append(used)
      confidences.append(value)
      log_prob += score
      if previous == request_lib.EOS_ID:
        break
    return tokens, layers, confidences, log_prob

  def oracle_token(self, previous, position):
    """As `token`, leaving at the first layer that agrees with the last."""
    states, best = [self._network(jnp.int32(previous), method='embed')], []
    for k in range(self.config.num_decoder_layers):
      self.inputs[k, position] = states[-1]
      states.append(self._layer(k, position))
      logits = self._network(states[-1], method='logits_from_hidden')
      best.append(int(np.argmax(logits)))
    layer = 1 + best.index(best[-1])
    self.inputs[layer:, position] = states[layer]
    return best[-1], layer, best
