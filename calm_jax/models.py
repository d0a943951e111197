"""EncoderDecoderModel: the network, the objective and the exits in one object.

A thin facade whose methods have the names and results of T5X's models. It is
not yet what `t5x.train` can drive: vocabularies, feature converter and
optimizer are not part of it. The algorithms live in `t5`, `cross_entropy`,
`early_exit` and `decoding`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calm_jax import (
  beam_search,
  cross_entropy,
  decode_fns,
  decoding,
  errors,
  row_inputs,
)
from calm_jax.early_exit import (
  confidence,
  layer_loop,
  oracle,
  packing,
  propagation,
  sampling,
  schedule,
)
from calm_jax.t5 import joined, network

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
    measure: confidence.ConfidenceMeasure = confidence.SoftmaxTopTwoGap(),  # noqa: B008
    threshold_schedule: schedule.ThresholdSchedule = (
      schedule.ConstantThreshold()  # noqa: B008
    ),
    exit_layers: schedule.ExitLayers = schedule.ExitLayers(),  # noqa: B008
    propagation: propagation.Propagation = propagation.ExitState(),  # noqa: B008
    output_length: decoding.ProportionalLength | None = None,
    decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
    default_decoder_params: decode_fns.DecoderParams = (
      decode_fns.DecoderParams()  # noqa: B008
    ),
    rows_per_pack: Sequence[int] = packing.ROWS_PER_PACK,
    z_loss: float = 1e-4,
    label_smoothing: float = 0.0,
  ):
    self.module = module
    self.measure = measure
    self.threshold_schedule = threshold_schedule
    self.exit_layers = exit_layers
    self.propagation = propagation
    self.output_length = output_length
    self.decode_fn = decode_fn
    self.default_decoder_params = default_decoder_params
    self.rows_per_pack = packing.checked_sizes(rows_per_pack)
    exit_layers.layers(self.config.num_decoder_layers)
    _check_measure(measure)
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
    check_thresholds(threshold)
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
      options['sampler'] = call.decode_fn
      options['seeds'] = decode_fns.row_seeds(call.rng, *shape)
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

  def prepare(self, params: Params) -> Any:
    """What `generate` can derive from the parameters once for all calls.

    Returns:
      The measure's own arrays, and kernels laid out for decoding (`t5.joined`).
    """
    return {
      'prepared': self.measure.prepare(self.config, params),
      'joined': joined.join_kernels(params, self.config.num_decoder_layers),
    }

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
    eos_id: int | jax.Array = EOS_ID,
    max_decode_steps: int | jax.Array | None = None,
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
      prompts: [sources, length] tokens that outputs start with. A prompt ends
        before its first EOS or 0. The full model reads it: its positions use
        all layers.
      prepared: from `prepare`; if None, every call prepares the measure anew
        and uses the kernels as they are.
      eos_id: the token that ends an output.
      max_decode_steps: most tokens after the prompt, T5X's; or [sources].

    Returns:
      The generated rows, [sources] or [sources * rows] of them.

    Raises:
      ConfigError: the oracle with a sampler, a sampler without seeds, prompts
        that are longer than an output, or a number out of range: traced ones
        cannot be checked.
    """
    check_thresholds(thresholds)
    self.check_eos_id(eos_id)
    prompts = checked_prompts(prompts, eos_id, max_decode_length)
    row_lengths = self.row_lengths(
      encoder_input_tokens, max_decode_length, prompts, max_decode_steps
    )
    check_seeds(sampler, seeds)
    per_source = thresholds.size // encoder_input_tokens.shape[0]

    def by_row(array):
      return jnp.repeat(array, per_source, axis=0)

    encoded = self.encode(params, encoder_input_tokens)
    tokens, encoded = by_row(encoder_input_tokens), by_row(encoded)
    prompts = None if prompts is None else by_row(prompts)
    row_lengths = by_row(row_lengths)
    thresholds = thresholds.reshape(-1)
    batch_size = tokens.shape[0]
    if prepared is None:
      # To lay kernels out for one call costs more than it gives.
      prepared = {'prepared': self.measure.prepare(self.config, params)}
    decoder = self.decoder(params, prepared, trace=trace, sampler=sampler)
    inputs = row_inputs.RowInputs(
      decoder.constants(encoded, tokens, max_decode_length),
      thresholds,
      None if sampler is None else seeds.reshape(-1),
      prompts,
    )
    return decoding.decode(
      inputs.step(decoder, self.threshold_schedule, max_decode_length),
      decoder.empty_cache(batch_size, max_decode_length),
      batch_size=batch_size,
      max_decode_length=max_decode_length,
      eos_id=eos_id,
      num_traced=self.config.num_decoder_layers if trace else 0,
      is_padding=jnp.all(tokens == 0, axis=-1),
      row_lengths=row_lengths,
      prompts=prompts,
    )

  def encode(self, params: Params, encoder_input_tokens: jax.Array):
    """[batch, source] -> [batch, source, embed]."""
    return self.module.apply(
      {'params': params}, encoder_input_tokens, method='encode'
    )

  def row_lengths(
    self,
    tokens: jax.Array,
    max_decode_length: int,
    prompts: jax.Array | None = None,
    steps: int | jax.Array | None = None,
  ) -> jax.Array:
    """[sources], the longest output of each; arguments as for `generate`.

    A bound by the input never cuts a prompt, and leaves it one token.
    """
    prompt_lengths = jnp.zeros(tokens.shape[:1], jnp.int32)
    if prompts is not None:
      prompt_lengths = jnp.sum(prompts > 0, axis=1)
    longest = jnp.full_like(prompt_lengths, max_decode_length)
    if self.output_length is not None:
      longest = jnp.maximum(self.output_length(tokens), prompt_lengths + 1)
    if steps is not None:
      longest = jnp.minimum(longest, prompt_lengths + steps)
    return longest

  def check_eos_id(self, eos_id: int | jax.Array) -> None:
    """Raises ConfigError unless it is a token other than padding."""
    if isinstance(eos_id, jax.core.Tracer):
      return
    if not 0 < eos_id < self.config.vocab_size:
      raise errors.ConfigError(
        f'eos_id must be from 1 to {self.config.vocab_size - 1}, a token of the'
        f' vocabulary other than the start symbol and padding 0, got {eos_id}.'
      )

  def beam_search(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    *,
    num_beams: int,
    max_decode_length: int,
    alpha: float | jax.Array = 0.6,
    eos_id: int | jax.Array = EOS_ID,
    prompts: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Beam search with the full model: see `beam_search.beam_decode`.

    Args:
      params, encoder_input_tokens, max_decode_length, eos_id, prompts: as for
        `generate`.
      num_beams: sequences kept per source.
      alpha: exponent of the length penalty.

    Returns:
      Tokens [sources, beams, target] and scores [sources, beams], the best
      last. For sources of zeros, which are padding, all of them are 0.

    Raises:
      ConfigError: as `generate` and `beam_search.beam_decode`.
    """
    self.check_eos_id(eos_id)
    prompts = checked_prompts(prompts, eos_id, max_decode_length)
    encoded = self.module.apply(
      {'params': params}, encoder_input_tokens, method='encode'
    )
    tokens = jnp.repeat(encoder_input_tokens, num_beams, axis=0)
    encoded = jnp.repeat(encoded, num_beams, axis=0)
    decoder = layer_loop.EarlyExitDecoder(
      params, self.config, confidence.StaticExit()
    )
    constants = decoder.constants(encoded, tokens, max_decode_length)
    tokens, scores = beam_search.beam_decode(
      lambda token, position, cache: decoder.full_model_logits(
        token, position, constants, cache
      ),
      decoder.empty_cache(tokens.shape[0], max_decode_length),
      batch_size=encoder_input_tokens.shape[0],
      num_beams=num_beams,
      max_decode_length=max_decode_length,
      eos_id=eos_id,
      alpha=alpha,
      # Without a bound by the input, beams need not end at the last token.
      row_lengths=self.output_length
      and self.row_lengths(encoder_input_tokens, max_decode_length, prompts),
      prompts=prompts,
    )
    is_source = jnp.any(encoder_input_tokens > 0, axis=-1)[:, None]
    return (
      jnp.where(is_source[..., None], tokens, 0),
      jnp.where(is_source, scores, 0.0),
    )

  def decoder(
    self,
    params: Params,
    prepared: Any,
    *,
    trace: bool = False,
    sampler: sampling.Sampler | None = None,
  ) -> layer_loop.EarlyExitDecoder | oracle.OracleDecoder:
    """The decoder with this model's exits; arguments as for `generate`."""
    decoder = layer_loop.EarlyExitDecoder(
      params,
      self.config,
      self.measure,
      exit_layers=self.exit_layers,
      propagation=self.propagation,
      sampler=sampler,
      **prepared,
      trace=trace,
      rows_per_pack=self.rows_per_pack,
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


def check_thresholds(thresholds: float | np.ndarray | jax.Array) -> None:
  """Raises ConfigError unless all are in [0, 1].

  Traced ones cannot be checked; there NaN acts as 1, the full model.
  """
  if isinstance(thresholds, jax.core.Tracer):
    return
  values = np.asarray(thresholds)
  if not ((values >= 0) & (values <= 1)).all():
    raise errors.ConfigError(
      f'Thresholds must be in [0, 1], got {values.reshape(-1).tolist()}; 1 is'
      ' the full model.'
    )


def _check_measure(measure) -> None:
  if not isinstance(measure, confidence.ConfidenceMeasure):
    raise errors.ConfigError(
      'EncoderDecoderModel.measure must be a ConfidenceMeasure, as'
      f' @confidence.SoftmaxTopTwoGap(), got {measure!r}. Each file in'
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


def check_seeds(
  sampler: sampling.Sampler | None, seeds: jax.Array | None
) -> None:
  """Raises ConfigError for a sampler without seeds."""
  if sampler is not None and seeds is None:
    raise errors.ConfigError('A sampler needs a seed for every row, got none.')


def checked_prompts(
  prompts: jax.Array | None, eos_id: int | jax.Array, max_decode_length: int
) -> jax.Array | None:
  """Prompts up to their first EOS or 0, after which the model is free.

  Raises:
    ConfigError: they are wider than an output.
  """
  if prompts is None or prompts.shape[1] == 0:
    return None
  if prompts.shape[1] > max_decode_length:
    raise errors.ConfigError(
      f'Prompts must be at most as wide as the longest output of'
      f' {max_decode_length} tokens, got {prompts.shape[1]} columns; leave out'
      ' columns of padding, or raise max_decode_length.'
    )
  goes_on = jnp.cumprod((prompts != 0) & (prompts != eos_id), axis=1)
  return jnp.where(goes_on > 0, prompts, 0)
