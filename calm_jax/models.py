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

from calm_jax import beam_search, cross_entropy, decoding, errors
from calm_jax.early_exit import (
  confidence,
  layer_loop,
  oracle,
  propagation,
  sampling,
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
    rng: jax.Array | None = None,
    *,
    threshold: float | jax.Array = 1.0,
    max_decode_length: int | None = None,
    num_decodes: int = 1,
    return_all_decodes: bool = False,
    sampler: sampling.Sampler | None = None,
    prompt_with_targets: bool = False,
    eos_id: int = EOS_ID,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generates: greedily, or by drawing several outputs per source.

    Args:
      params: parameters of the module.
      batch: `encoder_input_tokens` [batch, source], and
        `decoder_input_tokens`, whose length is the default output length.
      rng: key that the rows' seeds are drawn from; only for a sampler.
      threshold: one for all rows, or [batch].
      max_decode_length: longest output in tokens.
      num_decodes: outputs per source; more than one needs a sampler.
      return_all_decodes: all of them, from the worst to the best by
        log-probability as in T5X, instead of the best one.
      sampler: draws tokens; the most probable one if None.
      prompt_with_targets: outputs start with `decoder_input_tokens`, which
        begin with the start symbol 0 as T5X's do; an EOS in them is dropped.
      eos_id: the token that ends an output.

    Returns:
      Tokens [batch, target], and T5X CALM's auxiliary outputs: `scores`
      [batch], `exits` and `confidences` [batch, target]; -1 where there is no
      token, or one of a prompt. With all decodes each has one more axis after
      the batch.

    Raises:
      ConfigError: several greedy decodes, which would all be the same.
    """
    if num_decodes > 1 and sampler is None:
      raise errors.ConfigError(
        f'num_decodes {num_decodes} needs a sampler: greedy outputs are all the'
        ' same.'
      )
    source = batch['encoder_input_tokens']
    inputs = batch['decoder_input_tokens']
    shape = (source.shape[0], num_decodes)
    thresholds = jnp.broadcast_to(
      jnp.atleast_1d(jnp.float32(threshold))[:, None], shape
    )
    seeds = None
    if sampler is not None:
      rng = jax.random.key(0) if rng is None else rng
      seeds = jax.random.bits(rng, shape, jnp.uint32)
    prompts = None
    if prompt_with_targets:
      # Without the start symbol; the model itself decides where to end.
      prompts = jnp.where(inputs[:, 1:] == eos_id, 0, inputs[:, 1:])
    result = self.generate(
      params,
      source,
      thresholds,
      max_decode_length=max_decode_length or inputs.shape[1],
      sampler=sampler,
      seeds=seeds,
      prompts=prompts,
      eos_id=eos_id,
    )
    is_token = result.num_layers_used > 0
    outputs = {
      'tokens': result.tokens,
      'scores': result.log_probs,
      'exits': jnp.where(is_token, result.num_layers_used, -1),
      'confidences': jnp.where(is_token, result.confidences, -1.0),
    }
    outputs = {k: x.reshape(*shape, *x.shape[1:]) for k, x in outputs.items()}
    order = jnp.argsort(outputs['scores'], axis=1)
    if not return_all_decodes:
      order = order[:, -1:]
    outputs = {
      name: jnp.take_along_axis(
        x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1
      )
      for name, x in outputs.items()
    }
    if not return_all_decodes:
      outputs = {name: x[:, 0] for name, x in outputs.items()}
    return outputs.pop('tokens'), outputs

  def prepare(self, params: Params) -> Any:
    """What the measure derives from the parameters, for `generate`."""
    return self.measure.prepare(self.config, params)

  def generate(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    thresholds: jax.Array,
    *,
    max_decode_length: int,
    trace: bool = False,
    sampler: sampling.Sampler | None = None,
    seeds: jax.Array | None = None,
    prompts: jax.Array | None = None,
    prepared: Any = None,
    eos_id: int = EOS_ID,
  ) -> decoding.DecodeResult:
    """Generates, each row leaving the decoder at its own threshold.

    Several rows for one source cost one encoding of it.

    Args:
      params: parameters of the module.
      encoder_input_tokens: [sources, source]; rows of zeros generate nothing.
      thresholds: [sources] or [sources, rows], in [0, 1]; run time values, so
        that a whole grid shares one compiled program.
      max_decode_length: longest output in tokens, EOS included.
      trace: whether to record every layer's confidence and best token.
      sampler: draws tokens from the distribution of the layer where they
        leave; the most probable one if None.
      seeds: uint32 of the thresholds' shape, for the sampler: a row's draws
        depend on its own seed, not on its place in the batch.
      prompts: [sources, length] tokens that outputs start with, 0 after them.
        The full model reads them: their positions use all layers.
      prepared: from `prepare`; if None, every call prepares the measure anew.
      eos_id: the token that ends an output.

    Returns:
      The generated rows, [sources] or [sources * rows] of them.

    Raises:
      ConfigError: the oracle with a sampler, or a sampler without seeds.
    """
    if sampler is not None and seeds is None:
      raise errors.ConfigError(
        'A sampler needs a seed for every row, got none.'
      )
    per_source = thresholds.size // encoder_input_tokens.shape[0]

    def by_row(array):
      return jnp.repeat(array, per_source, axis=0)

    encoded = self.module.apply(
      {'params': params}, encoder_input_tokens, method='encode'
    )
    tokens, encoded = by_row(encoder_input_tokens), by_row(encoded)
    prompts = None if prompts is None else by_row(prompts)
    thresholds = thresholds.reshape(-1)
    batch_size = tokens.shape[0]
    if prepared is None:
      prepared = self.prepare(params)
    decoder = self._decoder(params, prepared, trace, sampler)
    constants = decoder.constants(encoded, tokens, max_decode_length)
    row_keys = None
    if sampler is not None:
      row_keys = jax.vmap(jax.random.key)(seeds.reshape(-1))

    def tokens_to_step(previous, position, undecided, cache):
      in_force = self.threshold_schedule(
        thresholds, position, max_decode_length
      )
      is_prompt = decoding.prompt_at(prompts, position) != 0
      in_force = jnp.where(is_prompt, 1.0, in_force)
      keys = ()
      if row_keys is not None:
        keys = (jax.vmap(jax.random.fold_in, (0, None))(row_keys, position),)
      return decoder(
        previous, position, undecided, in_force, constants, cache, *keys
      )

    return decoding.decode(
      tokens_to_step,
      decoder.empty_cache(batch_size, max_decode_length),
      batch_size=batch_size,
      max_decode_length=max_decode_length,
      eos_id=eos_id,
      num_traced=self.config.num_decoder_layers if trace else 0,
      is_padding=jnp.all(tokens == 0, axis=-1),
      row_lengths=self._row_lengths(tokens, prompts),
      prompts=prompts,
    )

  def _row_lengths(self, tokens, prompts):
    """The longest output of each row; a prompt is never cut."""
    if self.output_length is None:
      return None
    longest = self.output_length(tokens)
    if prompts is None:
      return longest
    return jnp.maximum(longest, jnp.sum(prompts > 0, axis=1) + 1)

  def beam_search(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    *,
    num_beams: int,
    max_decode_length: int,
    alpha: float = 0.6,
    eos_id: int = EOS_ID,
  ) -> tuple[jax.Array, jax.Array]:
    """Beam search with the full model: see `beam_search.beam_decode`.

    Returns:
      Tokens [sources, beams, target] and scores [sources, beams], the best
      last.
    """
    encoded = self.module.apply(
      {'params': params}, encoder_input_tokens, method='encode'
    )
    tokens = jnp.repeat(encoder_input_tokens, num_beams, axis=0)
    encoded = jnp.repeat(encoded, num_beams, axis=0)
    decoder = layer_loop.EarlyExitDecoder(
      params, self.config, confidence.StaticExit()
    )
    constants = decoder.constants(encoded, tokens, max_decode_length)
    return beam_search.beam_decode(
      lambda token, position, cache: decoder.full_model_logits(
        token, position, constants, cache
      ),
      decoder.empty_cache(tokens.shape[0], max_decode_length),
      batch_size=encoder_input_tokens.shape[0],
      num_beams=num_beams,
      max_decode_length=max_decode_length,
      eos_id=eos_id,
      alpha=alpha,
      row_lengths=self._row_lengths(encoder_input_tokens, None),
    )

  def _decoder(self, params, prepared, trace, sampler):
    decoder = layer_loop.EarlyExitDecoder(
      params,
      self.config,
      self.measure,
      exit_layers=self.exit_layers,
      propagation=self.propagation,
      sampler=sampler,
      prepared=prepared,
      trace=trace,
    )
    if isinstance(self.measure, oracle.Oracle):
      if sampler is not None:
        raise errors.ConfigError(
          'The oracle compares best tokens, so it cannot draw them; choose'
          ' another measure for a sampler.'
        )
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
