"""EarlyExitModel: a network whose tokens may leave early, generating.

    source tokens --encode--> encoded --decoder, token loop--> DecodeResult

Token arrays in and out, pure functions of the parameters. `models` adds T5X's
interface, `token_generator` compiles, `continuous_batching` refills rows. The
algorithms live in `t5`, `early_exit`, `decoding` and `beam_search`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax import errors
from calm_jax.decode import beam_search, decode_arguments, decoding, row_inputs
from calm_jax.early_exit.engine import (
  confidence,
  layer_loop,
  packing,
  sampling,
  schedule,
  skipped_layers,
)
from calm_jax.early_exit.measures import oracle, static
from calm_jax.t5 import joined, network

Params = Mapping[str, Any]


class EarlyExitModel:
  """A network, and where and how its tokens leave.

  Attributes: as of `models.EncoderDecoderModel`, which has their defaults.

  Raises:
    ConfigError: the measure or the exits do not fit the network.
  """

  def __init__(
    self,
    module: nn.Module,
    *,
    measure: confidence.ConfidenceMeasure,
    threshold_schedule: schedule.ThresholdSchedule,
    exit_layers: schedule.ExitLayers,
    skipped_layers: skipped_layers.SkippedLayers,
    output_length: decoding.ProportionalLength | None,
    rows_per_pack: Sequence[int],
  ):
    self.module = module
    self.measure = measure
    self.threshold_schedule = threshold_schedule
    self.exit_layers = exit_layers
    self.skipped_layers = skipped_layers
    self.output_length = output_length
    self.rows_per_pack = packing.checked_sizes(rows_per_pack)
    exit_layers.layers(self.config.num_decoder_layers)
    measure.check(self.config)

  @property
  def config(self) -> network.T5Config:
    """Sizes of the network."""
    return self.module.config

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
    eos_id: int | jax.Array = decode_arguments.EOS_ID,
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
      ConfigError: arrays that do not belong together, the oracle with a
        sampler, a sampler without seeds, prompts that are longer than an
        output, or a number out of range: traced ones cannot be checked.
    """
    decode_arguments.check_rows(
      encoder_input_tokens, thresholds, seeds, prompts
    )
    decode_arguments.check_thresholds(thresholds)
    self._check_eos_id(eos_id)
    prompts = decode_arguments.checked_prompts(
      prompts, eos_id, max_decode_length
    )
    row_lengths = self.row_lengths(
      encoder_input_tokens, max_decode_length, prompts, max_decode_steps
    )
    decode_arguments.check_seeds(sampler, seeds)
    per_source = math.prod(thresholds.shape[1:])

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

  def beam_search(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    *,
    num_beams: int,
    max_decode_length: int,
    alpha: float | jax.Array = 0.6,
    eos_id: int | jax.Array = decode_arguments.EOS_ID,
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
    self._check_eos_id(eos_id)
    decode_arguments.check_prompt_rows(encoder_input_tokens, prompts)
    prompts = decode_arguments.checked_prompts(
      prompts, eos_id, max_decode_length
    )
    tokens = jnp.repeat(encoder_input_tokens, num_beams, axis=0)
    encoded = jnp.repeat(
      self.encode(params, encoder_input_tokens), num_beams, axis=0
    )
    decoder = layer_loop.EarlyExitDecoder(
      params, self.config, static.StaticExit()
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
      skipped_layers=self.skipped_layers,
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

  def _check_eos_id(self, eos_id: int | jax.Array) -> None:
    decode_arguments.check_eos_id(eos_id, self.config.vocab_size)
