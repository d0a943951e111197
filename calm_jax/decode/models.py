"""EncoderDecoderModel: the network, the objective and the exits in one object.

Its methods have the names and results of T5X's models: loss and scores of given
targets here, decoding in `early_exit_model`. `t5x_models` adds what `t5x.train`
asks for besides: vocabularies, feature converter and optimizer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calm_jax import errors
from calm_jax.decode import (
  beam_search,
  decode_arguments,
  decode_fns,
  decoding,
  early_exit_model,
)
from calm_jax.early_exit.engine import (
  confidence,
  packing,
  sampling,
  schedule,
  skipped_layers,
)
from calm_jax.early_exit.measures import softmax
from calm_jax.t5 import cross_entropy

EOS_ID = decode_arguments.EOS_ID

Batch = Mapping[str, jax.Array]
Params = early_exit_model.Params


@gin.configurable
class EncoderDecoderModel(early_exit_model.EarlyExitModel):
  """A T5 whose decoder may stop early.

  Attributes:
    module: `network.Transformer`.
    measure: how sure a layer is.
    threshold_schedule: the threshold of a token from its position.
    exit_layers: where tokens may leave.
    skipped_layers: what the layers that a token skips see of it.
    output_length: bounds each row's output by its input; None for no bound but
      `max_decode_length`.
    decode_fn: how `predict_batch` decodes.
    default_decoder_params: what its calls ask for that do not say.
    rows_per_pack: how many rows of a batch a layer takes at a time once others
      have left (`layer_loop.EarlyExitDecoder`); () to always take all.

  Raises:
    ConfigError: the measure or the exits do not fit the network.
  """

  def __init__(
    self,
    module: nn.Module,
    *,
    measure: confidence.ConfidenceMeasure = softmax.SoftmaxTopTwoGap(),  # noqa: B008
    threshold_schedule: schedule.ThresholdSchedule = (
      schedule.ConstantThreshold()  # noqa: B008
    ),
    exit_layers: schedule.ExitLayers = schedule.ExitLayers(),  # noqa: B008
    skipped_layers: skipped_layers.SkippedLayers = (
      skipped_layers.ProjectExitState()  # noqa: B008
    ),
    output_length: decoding.ProportionalLength | None = None,
    decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
    default_decoder_params: decode_fns.DecoderParams = (
      decode_fns.DecoderParams()  # noqa: B008
    ),
    rows_per_pack: Sequence[int] = packing.ROWS_PER_PACK,
    z_loss: float = 1e-4,
    label_smoothing: float = 0.0,
  ):
    """Checks that the parts fit each other.

    Args:
      z_loss: coefficient of `loss_fn`'s auxiliary loss log(Z)^2.
      label_smoothing: probability that `loss_fn` spreads over other tokens.
    """
    _check_measure(measure)
    super().__init__(
      module,
      measure=measure,
      threshold_schedule=threshold_schedule,
      exit_layers=exit_layers,
      skipped_layers=skipped_layers,
      output_length=output_length,
      rows_per_pack=rows_per_pack,
    )
    self.decode_fn = decode_fn
    self.default_decoder_params = default_decoder_params
    self._z_loss = z_loss
    self._label_smoothing = label_smoothing

  def get_initial_variables(
    self, rng: jax.Array, input_shapes: Mapping[str, tuple[int, ...]]
  ) -> Mapping[str, Any]:
    """Fresh parameters, and the logical axis names in `params_axes`.

    Args:
      rng: key of the initializers.
      input_shapes: of `encoder_input_tokens` and `decoder_input_tokens`.

    Returns:
      Flax variables with the collections `params` and `params_axes`.
    """
    source = jnp.ones(input_shapes['encoder_input_tokens'], jnp.int32)
    target = jnp.ones(input_shapes['decoder_input_tokens'], jnp.int32)
    return self.module.init(rng, source, target, target, enable_dropout=False)

  def loss_fn(
    self, params: Params, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of the last layer, summed over the batch's tokens.

    Training weighs the losses of all layers (`training.step`); this is the
    plain loss that T5X's trainer asks a model for.

    Args:
      params: parameters of the module.
      batch: T5X's features, [batch, length] each.
      dropout_rng: key of the dropout; None for none.

    Returns:
      The loss, and sums of loss, z-loss, correct tokens and weights.
    """
    logits = self._logits(params, batch, dropout_rng)
    targets, weights = (
      batch['decoder_target_tokens'],
      cross_entropy.loss_weights(batch),
    )
    loss, z_loss, weight_sum = cross_entropy.compute_weighted_cross_entropy(
      logits,
      targets,
      weights,
      label_smoothing=self._label_smoothing,
      z_loss=self._z_loss,
    )
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
    return loss, {
      'loss': loss,
      'z_loss': z_loss,
      'correct': correct,
      'weight_sum': weight_sum,
    }

  def eval_fn(
    self, params: Params, batch: Batch
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`loss_fn` without dropout."""
    return self.loss_fn(params, batch, None)

  def score_batch(self, params: Params, batch: Batch) -> jax.Array:
    """[batch] log-likelihood of the targets under the full model."""
    logits = self._logits(params, batch, None)
    log_probs = jax.nn.log_softmax(logits)
    scores = cross_entropy.target_logits(
      log_probs, batch['decoder_target_tokens']
    )
    return jnp.sum(scores * cross_entropy.loss_weights(batch), axis=-1)

  def predict_batch(
    self,
    params: Params,
    batch: Batch,
    rng: jax.Array | None = None,
    **kwargs,
  ) -> jax.Array:
    """[batch, target] tokens; arguments as in `predict_batch_with_aux`."""
    return self.predict_batch_with_aux(params, batch, rng, **kwargs)[0]

  def predict_batch_with_aux(
    self,
    params: Params,
    batch: Batch,
    rng: jax.Array | None = None,
    decoder_params: Mapping[str, Any] | None = None,
    return_all_decodes: bool | None = None,
    num_decodes: int | None = None,
    prompt_with_targets: bool = False,
    *,
    threshold: float | jax.Array = 1.0,
    decode_fn: decode_fns.DecodeFn | None = None,
    max_decode_length: int | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generates as the decode_fn does: greedily, by draws or by beam search.

    Names and order are T5X's; the arguments after the star are ours.

    Args:
      params: parameters of the module.
      batch: `encoder_input_tokens` [batch, source], and
        `decoder_input_tokens`, whose length is the default output length.
      rng: key of the draws, T5X's `decoder_params['decode_rng']`. A row's draws
        depend on it, on the row's index and on the decode's
        (`decode_fns.row_seeds`).
      decoder_params: T5X's parameters of a decode_fn for this call, as
        `decode_fns.settle` lists them.
      return_all_decodes: all of them, from the worst to the best by their
        scores as in T5X, instead of the best one; the model's default if None.
      num_decodes: outputs per source, the number of beams for a beam search;
        the model's default if None.
      prompt_with_targets: outputs start with `decoder_input_tokens`, which
        begin with the start symbol 0 as T5X's do. A prompt ends before its
        first EOS or 0.
      threshold: one for all rows, or [batch].
      decode_fn: how to decode; as the model does if None.
      max_decode_length: longest output in tokens, T5X's `max_decode_len`.

    Returns:
      Tokens [batch, target], and T5X CALM's auxiliary outputs: `scores`
      [batch], `exits` and `confidences` [batch, target]; -1 where there is no
      token, or one of a prompt. A beam search gives `scores` alone, -inf for
      beams that hold nothing. With all decodes each has one more axis after the
      batch.

    Raises:
      ConfigError: several greedy decodes, which would all be the same; a
        threshold that is NaN or outside [0, 1]; a beam search with a threshold
        below 1; decoder_params that the decode_fn does not know.
    """
    defaults = self.default_decoder_params
    if return_all_decodes is None:
      return_all_decodes = defaults.return_all_decodes
    if num_decodes is None:
      num_decodes = defaults.num_decodes
    call = decode_fns.settle(
      decode_fn or self.decode_fn,
      decoder_params,
      rng=rng,
      max_decode_length=max_decode_length,
      default_eos_id=EOS_ID,
    )
    decode_fns.check_num_decodes(call.decode_fn, num_decodes)
    decode_arguments.check_thresholds(threshold)
    inputs = batch['decoder_input_tokens']
    options = {
      'max_decode_length': call.max_decode_length or inputs.shape[1],
      'eos_id': call.eos_id,
      # Without the start symbol; the model itself decides where to end.
      'prompts': inputs[:, 1:] if prompt_with_targets else None,
    }
    source = batch['encoder_input_tokens']
    if isinstance(call.decode_fn, beam_search.BeamSearch):
      _check_is_full_model(threshold)
      tokens, scores = self.beam_search(
        params, source, num_beams=num_decodes, alpha=call.alpha, **options
      )
      outputs = {'tokens': tokens, 'scores': scores}
    else:
      options['max_decode_steps'] = call.max_decode_steps
      outputs = self._decodes(
        params, source, threshold, call, num_decodes, options
      )
    outputs = decode_fns.in_t5x_order(outputs, return_all_decodes)
    return outputs.pop('tokens'), outputs

  def _decodes(self, params, source, threshold, call, num_decodes, options):
    """Greedy or drawn outputs: [batch, decodes, ...] of each name."""
    shape = (source.shape[0], num_decodes)
    thresholds = jnp.atleast_1d(jnp.float32(threshold))[:, None]
    if isinstance(call.decode_fn, sampling.Sampler):
      seeds = decode_fns.row_seeds(call.rng, *shape)
      options = {**options, 'sampler': call.decode_fn, 'seeds': seeds}
    result = self.generate(
      params, source, jnp.broadcast_to(thresholds, shape), **options
    )
    is_token = result.num_layers_used > 0
    outputs = {
      'tokens': result.tokens,
      'scores': result.log_probs,
      'exits': jnp.where(is_token, result.num_layers_used, -1),
      'confidences': jnp.where(is_token, result.confidences, -1.0),
    }
    return {k: x.reshape(*shape, *x.shape[1:]) for k, x in outputs.items()}

  def _logits(self, params, batch, dropout_rng):
    return self.module.apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      batch.get('encoder_segment_ids'),
      batch.get('decoder_segment_ids'),
      enable_dropout=dropout_rng is not None,
      rngs={} if dropout_rng is None else {'dropout': dropout_rng},
    )


def _check_measure(measure) -> None:
  if isinstance(measure, type):
    raise errors.ConfigError(
      'EncoderDecoderModel.measure must be a ConfidenceMeasure, got the class'
      f' {measure.__name__}; call it: {measure.__name__}().'
    )
  if not isinstance(measure, confidence.ConfidenceMeasure):
    raise errors.ConfigError(
      'EncoderDecoderModel.measure must be a ConfidenceMeasure, as'
      f' @softmax.SoftmaxTopTwoGap(), got {measure!r}. Each file in'
      " gin/early_exit/ chooses one. T5X's CONF_METHOD is not read: its"
      " softmax_diff is SoftmaxTopTwoGap, and its default, 'softmax', is no"
      ' method there either.'
    )


def _check_is_full_model(threshold) -> None:
  is_traced = isinstance(threshold, jax.core.Tracer)
  if is_traced or np.any(np.asarray(threshold) < 1):
    raise errors.ConfigError(
      'A beam search is for the full model alone: scores of different layers'
      f' cannot be compared. Leave out the threshold, got {threshold}.'
    )
