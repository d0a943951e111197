"""Trained exit classifiers as confidence measures."""

import dataclasses
import functools
from typing import Any

import gin
import jax
import jax.numpy as jnp

from calm_jax import errors
from calm_jax.early_exit.engine import confidence, lazy_cache
from calm_jax.early_exit.measures import classifiers


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ClassifierConfidence(confidence.ConfidenceMeasure):
  """The probability that the layer's best token is the last layer's.

  CALM Sec. 3.5. Attention-based classifiers keep keys and values per layer and
  position, so that a token costs time linear in its position; positions that
  left earlier contribute the state that was propagated for them. The last layer
  agrees with itself: its confidence is 1.

  Attributes:
    classifier: its kind; `params['exit_classifiers'][classifier.name]` holds
      its parameters.
  """

  classifier: Any = classifiers.Linear()

  def check(self, config, params=None):
    if params is None:
      return
    name = self.classifier.name
    trained = params.get(classifiers.PARAMS, {})
    if name not in trained:
      raise errors.DataError(
        f'The model has no exit classifier {name!r}, only'
        f' {sorted(trained) or "none"}; train one with calm train'
        ' --gin_file=gin/runs/train_classifier.gin, or choose another measure.'
      )
    expected = jax.eval_shape(
      lambda: classifiers.init_params(
        self.classifier,
        jax.random.key(0),
        config.emb_dim,
        config.num_decoder_layers,
      )
    )
    shapes = [jax.tree.map(jnp.shape, x) for x in (trained[name], expected)]
    if shapes[0] != shapes[1]:
      raise errors.DataError(
        f'The parameters of the exit classifier {name!r} are not those of'
        f' {self.classifier}: they have shapes {shapes[0]}, it needs'
        f' {shapes[1]}.'
      )

  def start_sequence(self, config, batch_size, max_decode_length):
    if not self.classifier.attends:
      return ()
    heads = self.classifier.num_heads
    return tuple(
      lazy_cache.LazyCache.empty(
        batch_size,
        heads,
        self.classifier.width // heads,
        max_decode_length,
        jnp.float32,
      )
      for _ in range(config.num_decoder_layers - 1)
    )

  def __call__(self, view):
    if view.is_last:
      return confidence.Measurement(
        jnp.ones(view.hidden.shape[0]), sequence_state=view.sequence_state
      )
    apply = self._apply(view.num_layers, view.params)
    if not self.classifier.attends:
      logits = apply(view.hidden, view.layer, method='step')
      return confidence.Measurement(jax.nn.sigmoid(logits))
    caches, i = view.sequence_state, view.layer - 1
    cache = caches[i]
    if view.kept_states is not None:
      project = self._projection(view.layer, view.num_layers, view.params)
      cache = cache.with_position(
        project,
        project(view.hidden[:, None]),
        view.clock,
        view.kept_states,
        view.rows,
      )
    logits = apply(
      view.hidden,
      view.layer,
      *view.rows.take((cache.keys, cache.values)),
      view.clock.is_seen(cache.length),
      method='step',
    )
    return confidence.Measurement(
      jax.nn.sigmoid(logits),
      sequence_state=(*caches[:i], cache, *caches[i + 1 :]),
    )

  def see(self, passed):
    layer, caches = passed.layer, passed.sequence_state
    if layer == passed.num_layers or not self.classifier.attends:
      return caches
    project = self._projection(layer, passed.num_layers, passed.params)
    cache = caches[layer - 1].written(
      project(passed.states[:, None]), passed.pairs
    )
    return (*caches[: layer - 1], cache, *caches[layer:])

  def _projection(self, layer, num_layers, params):
    """States [batch, length, embed] -> their keys and values at a layer."""
    apply = self._apply(num_layers, params)
    return lambda states: apply(states, layer, method='project_key_value')

  def _apply(self, num_layers, params):
    return functools.partial(
      self.classifier.module(num_layers).apply,
      {'params': params[classifiers.PARAMS][self.classifier.name]},
    )
