"""Training stage 2: exit classifiers over a frozen network (CALM Sec. 3.5).

    batch -> states and best tokens of all layers, without dropout
          -> logits of every classifier at layers 1..L-1 -> agreement losses
          -> gradients of the classifiers alone

Several classifiers share one pass through the network, which is most of the
work.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from calm_jax import errors
from calm_jax.early_exit.measures import classifiers as classifiers_lib
from calm_jax.parallel import partitioning
from calm_jax.t5 import cross_entropy, network
from calm_jax.training import (
  classifier_metrics,
  consistency_losses,
  metrics,
  objectives,
  optimizers,
  state,
  step,
)


@dataclasses.dataclass(frozen=True)
class ClassifierObjective:
  """What stage 2 minimizes: the sum of the classifiers' losses.

  Attributes:
    classifiers: from `early_exit.classifiers`, with different names.
    balanced: agreement and disagreement weigh the same at each layer.
    geometric: the geometric-like loss instead of independent decisions.
    skip_prob: share of positions, drawn in each step, that leave at a
      random layer: above it the classifiers see the state in which they left,
      as when decoding, and are not judged there. 0 is CALM's training.

  Raises:
    ConfigError: no classifier, two of one name, a probability outside [0, 1],
      or skipped positions with the geometric-like loss, which needs all layers.
  """

  classifiers: Sequence[Any] = (classifiers_lib.Linear(),)
  balanced: bool = False
  geometric: bool = False
  skip_prob: float = 0.0

  def __post_init__(self):
    object.__setattr__(self, 'classifiers', tuple(self.classifiers))
    names = [kind.name for kind in self.classifiers]
    if not names or len(set(names)) < len(names):
      raise errors.ConfigError(
        f'Stage 2 needs classifiers of different names, got {names}.'
      )
    if not 0.0 <= self.skip_prob <= 1.0:
      raise errors.ConfigError(
        f'skip_prob must be in [0, 1], got {self.skip_prob}.'
      )
    if self.skip_prob and self.geometric:
      raise errors.ConfigError(
        'The geometric-like loss needs every layer of a token, so skip_prob'
        f' must be 0 with it, got {self.skip_prob}.'
      )

  def create_state(
    self,
    module: nn.Module,
    optimizer: optimizers.Optimizer,
    rng: jax.Array,
    batch: state.Batch,
    initial_params: Any,
  ) -> state.TrainState:
    """The given network with fresh classifiers instead of any that it had.

    Raises:
      ConfigError: no network is given.
    """
    del batch
    if initial_params is None:
      raise errors.ConfigError(
        'Exit classifiers are trained on a finished model; name it with'
        ' INITIAL_CHECKPOINT_PATH, for example'
        ' --gin.INITIAL_CHECKPOINT_PATH=\'"runs/docstrings_model"\'.'
      )
    fresh = init_classifiers(self.classifiers, rng, module.config)
    return state.TrainState(
      step=jnp.zeros([], jnp.int32),
      params={**initial_params, classifiers_lib.PARAMS: fresh},
      opt_state=optimizer.transformation.init(fresh),
    )

  def make_train_step(
    self, module: nn.Module, optimizer: optimizers.Optimizer, seed: int
  ) -> objectives.TrainStep:
    """(state, batch) -> (state, sums); donates the state."""

    def train_step(train_state, batch):
      rng = jax.random.fold_in(jax.random.key(seed), train_state.step)
      params = train_state.params
      trained = params[classifiers_lib.PARAMS]

      def loss_fn(trained):
        all_params = {**params, classifiers_lib.PARAMS: trained}
        losses = self.losses(module, all_params, batch, rng)
        return sum(losses.values()), losses

      gradients, losses = jax.grad(loss_fn, has_aux=True)(trained)
      updates, opt_state = optimizer.transformation.update(
        gradients, train_state.opt_state, trained
      )
      trained = optax.apply_updates(trained, updates)
      params = {**params, classifiers_lib.PARAMS: trained}
      sums = {
        'steps': jnp.float32(1),
        'loss': sum(losses.values()),
        'gradient_norm': step.global_norm(gradients),
        'learning_rate': optimizer.learning_rate_fn(train_state.step),
        **{f'loss/{name}': loss for name, loss in losses.items()},
      }
      return state.TrainState(train_state.step + 1, params, opt_state), sums

    return jax.jit(train_step, donate_argnums=0)

  def losses(
    self, module: nn.Module, params: Any, batch: state.Batch, rng: jax.Array
  ) -> dict[str, jax.Array]:
    """The loss of each classifier, by name; the network gets no gradient.

    Args:
      module: `t5.network.Transformer`.
      params: the network's parameters, and the classifiers'.
      batch: T5X's decoder features, [batch, length] each.
      rng: key of this step, for `skip_prob`.
    """
    seen = _observe(module, jax.lax.stop_gradient(params), batch)
    return self._losses(params[classifiers_lib.PARAMS], *seen, rng)

  def _losses(self, trained, hidden, labels, weights, rng) -> dict:
    every_layer = jnp.broadcast_to(weights, labels.shape)
    if self.skip_prob:
      hidden, reached = skipped_states(hidden, rng, self.skip_prob)
      every_layer = every_layer * reached
    losses = {}
    for kind in self.classifiers:
      logits = classifier_logits(kind, trained[kind.name], hidden)
      if self.geometric:
        losses[kind.name] = consistency_losses.geometric_loss(
          logits, labels, weights
        )
      else:
        losses[kind.name] = consistency_losses.independent_loss(
          logits, labels, every_layer, balanced=self.balanced
        )
    return losses

  def make_evaluator(self, module: nn.Module) -> objectives.Evaluator:
    """(params, batches) -> metrics of every classifier at every layer.

    The area under the curve is NaN where a layer always or never agrees.
    """

    @jax.jit
    def scores(params, batch):
      hidden, labels, weights = _observe(module, params, batch)
      trained = params[classifiers_lib.PARAMS]
      return (
        labels,
        weights,
        {
          kind.name: jax.nn.sigmoid(
            classifier_logits(kind, trained[kind.name], hidden)
          )
          for kind in self.classifiers
        },
      )

    def evaluate(params, batches):
      parts = [partitioning.to_host(scores(params, batch)) for batch in batches]
      counted = [weights > 0 for _, weights, _ in parts]

      def tokens(arrays):
        # [inner layers, tokens]
        return np.concatenate(
          [x[:, at] for x, at in zip(arrays, counted, strict=True)], axis=1
        )

      labels = tokens([x for x, _, _ in parts])
      return {
        f'{metric}/{kind.name}/layer_{layer}': value
        for kind in self.classifiers
        for layer, (probabilities, agrees) in enumerate(
          zip(tokens([x[kind.name] for *_, x in parts]), labels, strict=True), 1
        )
        for metric, value in classifier_metrics.binary_metrics(
          probabilities, agrees
        ).items()
      }

    return evaluate

  def training_metrics(
    self, total: metrics.MetricSums, seconds: float
  ) -> dict[str, float]:
    """Means over the steps."""
    steps = total['steps']
    means = {k: float(v / steps) for k, v in total.items() if k != 'steps'}
    return means | {'timing/steps_per_second': float(steps / seconds)}

  def training_line(self, values: dict[str, float]) -> str:
    """What a line of the log says."""
    return '  '.join(
      f'{kind.name} {values[f"loss/{kind.name}"]:.4f}'
      for kind in self.classifiers
    )

  def evaluation_lines(self, values: dict[str, float]) -> list[str]:
    """What an evaluation prints: AUROC and F1, a line per classifier."""
    return [
      f'{metric} of {kind.name}, layers 1 on: '
      + ' '.join(
        f'{value:.3f}'
        for name, value in values.items()
        if name.startswith(f'{metric}/{kind.name}/')
      )
      for kind in self.classifiers
      for metric in ('auroc', 'f1')
    ]


def init_classifiers(
  kinds: Sequence[Any], rng: jax.Array, config: network.T5Config
) -> dict[str, Any]:
  """Fresh parameters of classifiers, by name."""
  return {
    kind.name: classifiers_lib.init_params(
      kind,
      # By name: what a classifier starts from does not depend on the others.
      jax.random.fold_in(rng, zlib.crc32(kind.name.encode())),
      config.emb_dim,
      config.num_decoder_layers,
    )
    for kind in kinds
  }


def _observe(module, params, batch):
  """States and agreement [inner, batch, length, ...] and weights of tokens."""
  hidden = step.decoder_states(module, params, batch, None)
  predictions = step.best_tokens(module, params, hidden)
  return (
    hidden,
    consistency_losses.agreement(predictions),
    cross_entropy.loss_weights(batch),
  )


def classifier_logits(kind: Any, params: Any, hidden: jax.Array) -> jax.Array:
  """[layers, batch, length, embed] states -> [layers - 1, batch, length]."""
  module = kind.module(hidden.shape[0])
  return jnp.stack(
    [
      module.apply({'params': params}, hidden[layer - 1], layer)
      for layer in range(1, hidden.shape[0])
    ]
  )


def skipped_states(
  hidden: jax.Array, rng: jax.Array, skip_prob: float
) -> tuple[jax.Array, jax.Array]:
  """States as decoding with random exits shows them to the layers.

  The network's own states stay those of a full pass: what changes is which of
  them stands at a layer for a position that has left.

  Args:
    hidden: [layers, batch, length, embed].
    rng: key of the draw.
    skip_prob: share of positions that leave below the last layer.

  Returns:
    States, those above a position's exit replaced by the one at its exit; and
    [layers - 1, batch, length], 1 where a position reached the layer.
  """
  num_layers, batch, length, _ = hidden.shape
  leaves_rng, layer_rng = jax.random.split(rng)
  leaves = jax.random.bernoulli(leaves_rng, skip_prob, (batch, length))
  layer = jax.random.randint(layer_rng, (batch, length), 0, num_layers - 1)
  exit_layer = jnp.where(leaves, layer, num_layers - 1)  # from 0
  at = jnp.arange(num_layers)[:, None, None]
  source = jnp.minimum(at, exit_layer)
  states = jnp.take_along_axis(hidden, source[..., None], axis=0)
  return states, (at <= exit_layer)[:-1].astype(jnp.float32)
