"""One training step and one evaluation step, as pure functions.

    batch -> encode -> states of all decoder layers -> losses of some layers
          -> gradients -> optimizer -> next state, metric sums

The random numbers of a step are derived from the seed and the step's number, so
a resumed run repeats an uninterrupted one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from calm_jax import errors
from calm_jax.t5 import cross_entropy
from calm_jax.training import (
  losses,
  metrics,
  microbatches,
  objectives,
  optimizers,
  state,
)

EvalStep = Callable[[Any, state.Batch], metrics.MetricSums]


@dataclasses.dataclass(frozen=True)
class LayerWeightedObjective:
  """CALM's stage 1 objective (Sec. 3.2) and T5X's loss options.

  Attributes:
    layer_weights: weight of every layer's loss.
    num_sampled_layers: None for all layers, exactly the paper's loss; k for the
      last layer and k inner ones drawn in each step, an unbiased estimate
      that costs less where the vocabulary dominates.
    z_loss: coefficient of log(Z)^2.
    label_smoothing: probability spread over the wrong tokens.
    num_microbatches: parts that a batch is computed in, one after the other;
      the step is the same but for dropout, which each part draws for itself.
      None is 1, as in T5X.

  Raises:
    ConfigError: num_microbatches is no positive integer.
  """

  layer_weights: losses.LayerWeights = losses.LinearLayerWeights()
  num_sampled_layers: int | None = None
  z_loss: float = 1e-4
  label_smoothing: float = 0.0
  num_microbatches: int | None = 1

  def __post_init__(self):
    count = 1 if self.num_microbatches is None else self.num_microbatches
    object.__setattr__(self, 'num_microbatches', count)
    if type(count) is not int or count < 1:
      raise errors.ConfigError(
        f'num_microbatches must be an integer of at least 1, got {count!r}.'
      )

  def create_state(
    self,
    module: nn.Module,
    optimizer: optimizers.Optimizer,
    rng: jax.Array,
    batch: state.Batch,
    initial_params: Any,
  ) -> state.TrainState:
    """The state before the first step: drawn, or with the given parameters."""
    created = state.create(module, optimizer, rng, batch)
    if initial_params is None:
      return created
    # Exit classifiers of the old network say nothing about the new one.
    network = {name: initial_params[name] for name in created.params}
    return created.replace(params=network)

  def make_train_step(
    self, module: nn.Module, optimizer: optimizers.Optimizer, seed: int
  ) -> objectives.TrainStep:
    """(state, batch) -> (state, sums)."""
    return make_train_step(module, optimizer, self, seed)

  def make_evaluator(self, module: nn.Module) -> objectives.Evaluator:
    """(params, batches) -> loss, accuracy and agreement of every layer."""
    eval_step = make_eval_step(module)

    def evaluate(params, batches):
      total = None
      for batch in batches:
        total = metrics.add(total, eval_step(params, batch))
      return metrics.evaluation_metrics(total)

    return evaluate

  def training_metrics(
    self, total: metrics.MetricSums, seconds: float
  ) -> dict[str, float]:
    """T5X's names for the means over some steps."""
    return metrics.training_metrics(total, seconds)

  def training_line(self, values: dict[str, float]) -> str:
    """What a line of the log says besides the loss."""
    return (
      f'last layer {values["loss_per_nonpadding_target_token"]:.4f}'
      f'  accuracy {values["accuracy"]:.4f}'
    )

  def evaluation_lines(self, values: dict[str, float]) -> list[str]:
    """What an evaluation prints."""
    lines = [
      f'validation loss {values["loss"]:.4f}  accuracy {values["accuracy"]:.4f}'
    ]
    for kind in ('accuracy', 'agreement'):
      layers = [v for k, v in values.items() if k.startswith(f'{kind}_per')]
      numbers = ' '.join(f'{value:.3f}' for value in layers)
      lines.append(f'{kind} of layers 1-{len(layers)}: {numbers}')
    return lines


def decoder_states(
  module: nn.Module,
  params: Any,
  batch: state.Batch,
  dropout_rng: jax.Array | None,
) -> jax.Array:
  """[layers, batch, length, emb_dim] states; dropout where a key is given."""
  encoder_rng, decoder_rng = (
    jax.random.split(dropout_rng) if dropout_rng is not None else (None, None)
  )
  encoded = module.apply(
    {'params': params},
    batch['encoder_input_tokens'],
    batch.get('encoder_segment_ids'),
    enable_dropout=dropout_rng is not None,
    rngs=_rngs(encoder_rng),
    method='encode',
  )
  return module.apply(
    {'params': params},
    encoded,
    batch['encoder_input_tokens'],
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    batch.get('encoder_segment_ids'),
    batch.get('decoder_segment_ids'),
    enable_dropout=dropout_rng is not None,
    rngs=_rngs(decoder_rng),
    method='decode_all_layers',
  )


def logits_function(
  module: nn.Module, params: Any, dropout_rng: jax.Array | None
) -> losses.LogitsFn:
  """The shared read-out, with dropout of its own at every layer."""

  def logits_fn(hidden, layer):
    rng = (
      None if dropout_rng is None else jax.random.fold_in(dropout_rng, layer)
    )
    return module.apply(
      {'params': params},
      hidden,
      enable_dropout=dropout_rng is not None,
      rngs=_rngs(rng),
      method='logits_from_hidden',
    )

  return logits_fn


def _rngs(rng: jax.Array | None) -> dict[str, jax.Array]:
  return {} if rng is None else {'dropout': rng}


def compute_losses(
  module: nn.Module,
  objective: LayerWeightedObjective,
  params: Any,
  batch: state.Batch,
  rng: jax.Array,
  microbatch: int | jax.Array = 0,
) -> losses.LayerLosses:
  """The objective on one batch, with this step's dropout and layers.

  Args:
    module: `t5.network.Transformer`.
    objective: what to minimize.
    params: the network's parameters.
    batch: T5X's decoder features, [batch, length] each.
    rng: key of this step.
    microbatch: its index, so that each draws a dropout of its own; the layers
      are those of the step.

  Returns:
    Losses; `.loss` is to be differentiated.
  """
  layers_rng, states_rng, logits_rng = jax.random.split(rng, 3)
  use_dropout = module.config.dropout_rate > 0
  if objective.num_microbatches > 1:
    states_rng = jax.random.fold_in(states_rng, microbatch)
    logits_rng = jax.random.fold_in(logits_rng, microbatch)
  hidden = decoder_states(
    module, params, batch, states_rng if use_dropout else None
  )
  layer_weights = objective.layer_weights.weights(hidden.shape[0])
  return losses.layer_weighted_loss(
    hidden,
    logits_function(module, params, logits_rng if use_dropout else None),
    batch['decoder_target_tokens'],
    cross_entropy.loss_weights(batch),
    losses.select_layers(
      layers_rng, layer_weights, objective.num_sampled_layers
    ),
    label_smoothing=objective.label_smoothing,
    z_loss=objective.z_loss,
  )


def make_train_step(
  module: nn.Module,
  optimizer: optimizers.Optimizer,
  objective: LayerWeightedObjective,
  seed: int,
) -> objectives.TrainStep:
  """Builds the jitted step; it donates the state it is given.

  Args:
    module: `t5.network.Transformer`.
    optimizer: from `calm_jax.training.optimizers`.
    objective: what to minimize.
    seed: with the step's number, it determines dropout and sampled layers.

  Returns:
    (state, batch) -> (state after the step, sums for the logs).
  """

  def train_step(train_state, batch):
    rng = jax.random.fold_in(jax.random.key(seed), train_state.step)

    num_tokens = _num_tokens(batch)

    def loss_fn(params, part, index):
      found = compute_losses(module, objective, params, part, rng, index)
      # A microbatch counts by its tokens, so that the parts add up to the mean
      # over the batch; with one microbatch this is 1.
      share = _num_tokens(part) / num_tokens
      found = found.replace(
        loss=found.loss * share, z_loss=found.z_loss * share
      )
      return found.loss, found

    gradients, layer_losses = microbatches.accumulate(
      lambda part, index: jax.grad(loss_fn, has_aux=True)(
        train_state.params, part, index
      ),
      batch,
      objective.num_microbatches,
    )
    updates, opt_state = optimizer.transformation.update(
      gradients, train_state.opt_state, train_state.params
    )
    next_state = state.TrainState(
      step=train_state.step + 1,
      params=optax.apply_updates(train_state.params, updates),
      opt_state=opt_state,
    )
    sums = metrics.training_sums(
      layer_losses,
      batch,
      optimizer.learning_rate_fn(train_state.step),
      global_norm(gradients),
    )
    return next_state, sums

  return jax.jit(train_step, donate_argnums=0)


def _num_tokens(batch: state.Batch) -> jax.Array:
  """What `losses.layer_weighted_loss` divides by."""
  return jnp.maximum(jnp.sum(cross_entropy.loss_weights(batch)), 1.0)


def make_eval_step(module: nn.Module) -> EvalStep:
  """Builds the jitted evaluation of every layer on one batch.

  Returns:
    (params, batch) -> sums of cross-entropies, right tokens and tokens on which
    the layer agrees with the last one, for all layers.
  """

  def eval_step(params, batch):
    hidden = decoder_states(module, params, batch, None)
    targets = batch['decoder_target_tokens']
    weights = cross_entropy.loss_weights(batch)
    logits_fn = logits_function(module, params, None)

    def one_layer(layer_hidden):
      logits = logits_fn(layer_hidden, 0).astype(jnp.float32)
      loss, _, _ = cross_entropy.compute_weighted_cross_entropy(
        logits, targets, weights
      )
      return loss, _argmax(logits)

    layer_loss, predictions = jax.lax.map(one_layer, hidden)

    def count(matches):
      return jnp.sum(matches * weights, axis=(1, 2))

    return metrics.evaluation_sums(
      layer_loss=layer_loss,
      layer_correct=count(predictions == targets),
      layer_agreement=count(predictions == predictions[-1]),
      num_tokens=jnp.sum(weights),
    )

  return jax.jit(eval_step)


def best_tokens(module: nn.Module, params: Any, hidden: jax.Array) -> jax.Array:
  """[layers, batch, length, embed] states -> best token of each, int32."""
  logits_fn = logits_function(module, params, None)
  return jax.lax.map(lambda states: _argmax(logits_fn(states, 0)), hidden)


def global_norm(tree: Any) -> jax.Array:
  """Root of the sum of the squares of all leaves."""
  return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)))


def _argmax(logits: jax.Array) -> jax.Array:
  # Two plain reductions: XLA's argmax is a reduction of pairs, which CPUs do
  # not vectorize. The first of equal maxima wins in both.
  positions = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  is_maximum = logits == jnp.max(logits, axis=-1, keepdims=True)
  return jnp.min(jnp.where(is_maximum, positions, logits.shape[-1]), axis=-1)
