"""What T5X's trainer, evaluator and inference need of a model.

    t5x.train --loss_fn, eval_fn--> training.step, training.classifier_step
    t5x.infer --predict_batch_with_aux--> predictor.Predictor

`T5XModel` puts vocabularies, optimizer and metrics around our model; the gin
files of gin/t5x bind it. Nothing else in this package knows T5X, and this
module imports it inside functions, so that it can be read where T5X is missing.
docs/t5x.md tells how to install it.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import core, traverse_util
from flax.linen import partitioning as nn_partitioning

from calm_jax import errors
from calm_jax.decode import decode_fns
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.measures import classifiers
from calm_jax.t5 import cross_entropy
from calm_jax.t5x import decoder_params, predictor
from calm_jax.training import classifier_step, losses, step

Objective = step.LayerWeightedObjective | classifier_step.ClassifierObjective

# T5X wants a logical name for each axis that its rules know, those of
# partitioning and those of Adafactor; these two are never divided.
_WHOLE_AXES = ('kv', 'mlp_activations')


class T5XModel(predictor.Predictor):
  """A `model.EncoderDecoderModel` as T5X's scripts expect it.

  Attributes: those of `predictor.Predictor`, and
    input_vocabulary, output_vocabulary: seqio's, of inputs and targets.
    optimizer_def: T5X's optimizer.
    objective: what `t5x.train` minimizes: the layer-weighted loss of stage 1,
      or the loss of exit classifiers over a frozen network.
    loss_normalizing_factor: T5X's, for stage 1: a number, a name such as
      'NUM_REAL_TARGET_TOKENS', or None for sums over tokens.

  Raises:
    ConfigError: the embedding has fewer rows than a vocabulary has tokens, the
      threshold is outside [0, 1], or T5X is not installed.
  """

  def __init__(
    self,
    model: model_lib.EncoderDecoderModel,
    input_vocabulary: Any,
    output_vocabulary: Any,
    optimizer_def: Any,
    objective: Objective = step.LayerWeightedObjective(),  # noqa: B008
    threshold: float = 1.0,
    loss_normalizing_factor: float | str | None = None,
    decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
    default_decoder_params: decoder_params.DecoderParams = (
      decoder_params.DecoderParams()  # noqa: B008
    ),
  ):
    super().__init__(
      model,
      threshold=threshold,
      decode_fn=decode_fn,
      default_decoder_params=default_decoder_params,
      eos_id=output_vocabulary.eos_id or request_lib.EOS_ID,
    )
    self.input_vocabulary = input_vocabulary
    self.output_vocabulary = output_vocabulary
    self.optimizer_def = optimizer_def
    self.objective = objective
    self.loss_normalizing_factor = loss_normalizing_factor
    needed = max(input_vocabulary.vocab_size, output_vocabulary.vocab_size)
    if model.config.vocab_size < needed:
      raise errors.ConfigError(
        f'VOCAB_SIZE must be at least {needed}, the size of the vocabulary, got'
        f' {model.config.vocab_size}.'
      )
    # `t5x.train` compares vocabularies of models of this class alone.
    _t5x('models').BaseTransformerModel.register(type(self))

  @property
  def module(self):
    """The Flax module."""
    return self.model.module

  @property
  def FEATURE_CONVERTER_CLS(self):  # noqa: N802
    """seqio's converter of encoder-decoder models."""
    import seqio

    return seqio.EncDecFeatureConverter

  @property
  def exit_classifiers(self) -> tuple[Any, ...]:
    """Kinds whose parameters are trained or asked for."""
    if isinstance(self.objective, classifier_step.ClassifierObjective):
      return tuple(self.objective.classifiers)
    kind = getattr(self.model.measure, 'classifier', None)
    return () if kind is None else (kind,)

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, Any] | None = None,
  ) -> core.FrozenDict:
    """Fresh `params` and `params_axes`, exit classifiers included."""
    del input_types  # All features are tokens.
    source, target = (
      jnp.ones(input_shapes[name], jnp.int32)
      for name in ('encoder_input_tokens', 'decoder_input_tokens')
    )
    variables = self.module.init(
      rng, source, target, target, enable_dropout=False
    )
    params, axes = (dict(variables[x]) for x in ('params', 'params_axes'))
    if kinds := self.exit_classifiers:
      fresh = classifier_step.init_classifiers(kinds, rng, self.model.config)
      params[classifiers.PARAMS] = fresh
      axes[classifiers.PARAMS] = _axes_of(fresh)
    return core.freeze({'params': params, 'params_axes': axes})

  def loss_fn(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    dropout_rng: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """The objective and its metrics, with T5X's names.

    Args:
      params: as `get_initial_variables` gives them.
      batch: T5X's features, [batch, length] each; rows may be packed.
      dropout_rng: key of dropout and sampled layers; None for neither.

    Returns:
      The loss, and clu metrics: T5X's, and `loss_per_layer/layer_i` and
      `accuracy_per_layer/layer_i` (i from 1) or `loss/<classifier>`.
    """
    if isinstance(self.objective, classifier_step.ClassifierObjective):
      return self._classifier_loss(params, batch, dropout_rng)
    factor, weights = _t5x('losses').get_loss_normalizing_factor_and_weights(
      self.loss_normalizing_factor, batch
    )
    if weights is not None:
      batch = {**batch, 'decoder_loss_weights': weights}
    found = self._layer_losses(params, batch, dropout_rng)
    # Per token so far; T5X's default is the sum, of which it takes a share.
    scale = jnp.sum(cross_entropy.loss_weights(batch))
    if factor is not None:
      scale = scale / factor
    loss = found.loss * scale
    metrics = _base_metrics(batch, loss, found.z_loss * scale)
    return loss, metrics | _layer_metrics(found)

  def eval_fn(
    self, params: Any, batch: Mapping[str, jax.Array]
  ) -> tuple[jax.Array, dict[str, Any]]:
    """`loss_fn` of all layers, without dropout."""
    return self.loss_fn(params, batch, None)

  def score_batch(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    return_intermediates: bool = False,
  ) -> jax.Array:
    """The model's, as T5X calls it.

    Raises:
      ConfigError: for intermediates, which our network does not keep.
    """
    if return_intermediates:
      raise errors.ConfigError('score_batch cannot return intermediates.')
    return self.model.score_batch(params, batch)

  def _layer_losses(self, params, batch, rng) -> losses.LayerLosses:
    module, objective = self.module, self.objective
    if rng is None:
      config = module.config.replace(dropout_rate=0.0)
      module = module.clone(config=config)
      objective = dataclasses.replace(objective, num_sampled_layers=None)
      rng = jax.random.key(0)  # Nothing is left that draws.
    return step.compute_losses(module, objective, params, batch, rng)

  def _classifier_loss(self, params, batch, rng):
    rng = jax.random.key(0) if rng is None else rng
    by_name = self.objective.losses(self.module, params, batch, rng)
    loss = sum(by_name.values())
    average = _t5x('metrics').AveragePerStep
    own = {f'loss/{k}': average(total=x) for k, x in by_name.items()}
    # The rest would speak of the network, which learns nothing.
    kept = ('loss', 'timing/', 'non_padding_fraction/', 'effective_batch_size/')
    base = {
      name: metric
      for name, metric in _base_metrics(batch, loss, None).items()
      if name == kept[0] or name.startswith(kept[1:])
    }
    return loss, base | own


def registered_task(name: str) -> str:
  """The name of a task, once seqio knows it; what gin files call.

  Args:
    name: of a task of ours, built in or added by a gin file, or any that is
      registered with seqio.
  """
  from calm_jax.data import seqio_tasks

  seqio_tasks.add_to_seqio(name)
  return name


def vocabulary_of_task(name: str, feature: str = 'targets') -> Any:
  """seqio's vocabulary of a feature of a task."""
  import seqio

  features = seqio.get_mixture_or_task(registered_task(name)).output_features
  return features[feature].vocabulary


def without_optimizer_state(
  state: Mapping[str, Any], target: Mapping[str, Any], is_resuming: bool = False
) -> Mapping[str, Any]:
  """A T5X `state_transformation_fn`: a checkpoint's parameters alone.

  With `fallback_to_scratch`, steps then count from 0, accumulators are fresh
  and so are parameters that the checkpoint lacks: exit classifiers. The run's
  own checkpoints are resumed whole.
  """
  del target
  return state if is_resuming else {'target': state['target']}


def _t5x(name: str) -> Any:
  """A module of T5X's."""
  try:
    return importlib.import_module(f't5x.{name}')
  except ImportError as error:
    raise errors.ConfigError(
      f'T5XModel needs T5X: {error}. docs/t5x.md tells how to install it.'
    ) from error


def _axes_of(params: Mapping[str, Any]) -> dict[str, Any]:
  flat = traverse_util.flatten_dict(dict(params))
  return traverse_util.unflatten_dict(
    {
      (*path[:-1], f'{path[-1]}_axes'): nn_partitioning.AxisMetadata(
        names=_WHOLE_AXES[: leaf.ndim]
      )
      for path, leaf in flat.items()
    }
  )


def _base_metrics(batch, loss, z_loss) -> dict[str, Any]:
  """T5X's metrics but for `accuracy`, whose logits are not kept."""
  targets = batch['decoder_target_tokens']
  found = _t5x('models').compute_base_metrics(
    logits=jnp.zeros((*targets.shape, 1)),
    targets=targets,
    mask=cross_entropy.loss_weights(batch),
    loss=loss,
    z_loss=z_loss,
    segment_ids=_segment_ids(batch),
  )
  del found['accuracy']
  return found


def _segment_ids(batch) -> dict[str, jax.Array]:
  """Of packed rows; else real tokens as one segment, as in T5X."""
  suffix = '_segment_ids'
  packed = {k: v for k, v in batch.items() if k.endswith(suffix)}
  if packed:
    return {k.removesuffix(suffix): v for k, v in packed.items()}
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  return {name: batch[name] != 0 for name in names}


def _layer_metrics(found: losses.LayerLosses) -> dict[str, Any]:
  from clu import metrics as clu_metrics

  metrics = {
    'accuracy': clu_metrics.Average(
      total=found.layer_correct[-1], count=found.layer_tokens[-1]
    )
  }
  for name in ('loss', 'accuracy'):
    sums = found.layer_loss if name == 'loss' else found.layer_correct
    for i in range(sums.shape[0]):
      metrics[f'{name}_per_layer/layer_{i + 1}'] = clu_metrics.Average(
        total=sums[i], count=found.layer_tokens[i]
      )
  return metrics
