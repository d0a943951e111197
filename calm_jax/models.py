"""EncoderDecoderModel: the network, the objective and the exits in one object.

A thin facade whose methods have the names and results of T5X's models. It is
not yet what `t5x.train` can drive: vocabularies, feature converter and
optimizer are not part of it. The algorithms live in `t5`, `cross_entropy`,
`early_exit` and `decoding`.
"""

from collections.abc import Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax import cross_entropy, decoding
from calm_jax.early_exit import (
  confidence,
  layer_loop,
  oracle,
  propagation,
  schedule,
)
from calm_jax.t5 import network

EOS_ID = 1

Batch = Mapping[str, jax.Array]
Params = Mapping[str, Any]


@gin.configurable
class EncoderDecoderModel:
  """A T5 whose decoder may stop early.

  Attributes:
    module: `network.Transformer`.
    measure: how sure a layer is.
    threshold_schedule: the threshold of a token from its position.
    exit_layers: where tokens may leave.
    propagation: what the layers that a token skips see of it.
    output_length: bounds each row's output by its input; None for no bound but
      `max_decode_length`.

  Raises:
    ConfigError: the measure or the exits do not fit the network.
  """

  def __init__(
    self,
    module: nn.Module,
    *,
    measure: confidence.ConfidenceMeasure = confidence.SoftmaxTopTwoGap(),  # noqa: B008
    threshold_schedule: schedule.ThresholdSchedule = (
      schedule.ConstantThreshold()  # noqa: B008
    ),
    exit_layers: schedule.ExitLayers = schedule.ExitLayers(),  # noqa: B008
    propagation: propagation.Propagation = propagation.ExitState(),  # noqa: B008
    output_length: decoding.ProportionalLength | None = None,
    z_loss: float = 1e-4,
    label_smoothing: float = 0.0,
  ):
    self.module = module
    self.measure = measure
    self.threshold_schedule = threshold_schedule
    self.exit_layers = exit_layers
    self.propagation = propagation
    self.output_length = output_length
    exit_layers.layers(self.config.num_decoder_layers)
    measure.check(self.config)
    self._z_loss = z_loss
    self._label_smoothing = label_smoothing

  @property
  def config(self) -> network.T5Config:
    """Sizes of the network."""
    return self.module.config

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

  def predict_batch(self, params: Params, batch: Batch, **kwargs) -> jax.Array:
    """[batch, target] tokens; arguments as in `predict_batch_with_aux`."""
    return self.predict_batch_with_aux(params, batch, **kwargs)[0]

  def predict_batch_with_aux(
    self,
    params: Params,
    batch: Batch,
    *,
    threshold: float | jax.Array = 1.0,
    max_decode_length: int | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generates greedily.

    Args:
      params: parameters of the module.
      batch: `encoder_input_tokens` [batch, source], and
        `decoder_input_tokens`, whose length is the default output length.
      threshold: one for all rows, or [batch].
      max_decode_length: longest output in tokens.

    Returns:
      Tokens [batch, target], and T5X CALM's auxiliary outputs: `scores`
      [batch], `exits` and `confidences` [batch, target]; -1 where there is no
      token.
    """
    source = batch['encoder_input_tokens']
    length = max_decode_length or batch['decoder_input_tokens'].shape[1]
    result = self.generate(
      params,
      source,
      jnp.broadcast_to(jnp.float32(threshold), source.shape[:1]),
      max_decode_length=length,
    )
    is_token = result.num_layers_used > 0
    return result.tokens, {
      'scores': result.log_probs,
      'exits': jnp.where(is_token, result.num_layers_used, -1),
      'confidences': jnp.where(is_token, result.confidences, -1.0),
    }

  def generate(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    thresholds: jax.Array,
    *,
    max_decode_length: int,
    trace: bool = False,
  ) -> decoding.DecodeResult:
    """Generates greedily, each row leaving the decoder at its own threshold.

    Several thresholds for one source cost one encoding of it.

    Args:
      params: parameters of the module.
      encoder_input_tokens: [sources, source]; rows of zeros generate nothing.
      thresholds: [sources] or [sources, thresholds], in [0, 1]; run time
        values, so that a whole grid shares one compiled program.
      max_decode_length: longest output in tokens, EOS included.
      trace: whether to record every layer's confidence and best token.

    Returns:
      The generated rows, [sources] or [sources * thresholds] of them.
    """
    per_source = thresholds.size // encoder_input_tokens.shape[0]
    encoded = self.module.apply(
      {'params': params}, encoder_input_tokens, method='encode'
    )
    tokens = jnp.repeat(encoder_input_tokens, per_source, axis=0)
    encoded = jnp.repeat(encoded, per_source, axis=0)
    thresholds = thresholds.reshape(-1)
    batch_size = tokens.shape[0]
    decoder = self._decoder(params, trace)
    constants = decoder.constants(encoded, tokens, max_decode_length)

    def tokens_to_step(previous, position, undecided, cache):
      in_force = self.threshold_schedule(
        thresholds, position, max_decode_length
      )
      return decoder(previous, position, undecided, in_force, constants, cache)

    return decoding.greedy_decode(
      tokens_to_step,
      decoder.empty_cache(batch_size, max_decode_length),
      batch_size=batch_size,
      max_decode_length=max_decode_length,
      eos_id=EOS_ID,
      num_traced=self.config.num_decoder_layers if trace else 0,
      is_padding=jnp.all(tokens == 0, axis=-1),
      row_lengths=self.output_length and self.output_length(tokens),
    )

  def _decoder(self, params, trace):
    decoder = layer_loop.EarlyExitDecoder(
      params,
      self.config,
      self.measure,
      exit_layers=self.exit_layers,
      propagation=self.propagation,
      trace=trace,
    )
    if isinstance(self.measure, oracle.Oracle):
      return oracle.OracleDecoder(decoder)
    return decoder

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
