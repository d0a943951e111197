"""EncoderDecoderModel: a network whose tokens may leave early, generating.

    DecodeRequest --encode--> encoded --decoder, token loop--> DecodeResult

Token arrays in and out, pure functions of the parameters. `token_generator`
compiles them, `continuous_batching` refills rows, `t5x` adds what T5X's scripts
ask for. The algorithms live in `t5`, `early_exit`, `loop` and `beam_search`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax import errors
from calm_jax.decode import beams, lengths, loop, sequences
from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib
from calm_jax.early_exit.engine import (
  confidence,
  layer_loop,
  packing,
  schedule,
  skipped_layers,
)
from calm_jax.early_exit.measures import oracle, softmax, static
from calm_jax.t5 import cross_entropy, joined, network

Params = Mapping[str, Any]


@gin.configurable
class EncoderDecoderModel:
  """A T5 whose decoder may stop early.

  Attributes:
    module: `network.Transformer`.
    measure: how sure a layer is.
    threshold_schedule: the threshold of a token from its position.
    exit_layers: where tokens may leave.
    skipped_layers: what the layers that a token skips see of it.
    output_length: bounds each row's output by its input; None for no bound but
      `max_decode_length`.
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
    output_length: lengths.ProportionalLength | None = None,
    rows_per_pack: Sequence[int] = packing.ROWS_PER_PACK,
  ):
    """Checks that the parts fit each other."""
    _check_measure(measure)
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

  def request(
    self,
    encoder_input_tokens: Any,
    thresholds: Any = None,
    *,
    max_decode_length: int,
    **asked,
  ) -> request_lib.DecodeRequest:
    """A request to this model: see `request.make`.

    Args:
      encoder_input_tokens: [sources, source].
      thresholds: [sources] or [sources, rows]; the full model if None.
      max_decode_length: longest output in tokens.
      **asked: other arguments of `request.make`.

    Raises:
      ConfigError: as `request.make`, or the oracle with a sampler.
    """
    made = request_lib.make(
      encoder_input_tokens,
      thresholds,
      vocab_size=self.config.vocab_size,
      max_decode_length=max_decode_length,
      **asked,
    )
    if made.sampler and isinstance(self.measure, oracle.Oracle):
      raise errors.ConfigError(
        'The oracle compares best tokens, so it cannot draw them; choose'
        ' another measure for a sampler.'
      )
    return made

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
    request: request_lib.DecodeRequest,
    prepared: Any = None,
  ) -> result_lib.DecodeResult:
    """Generates, each row leaving the decoder at its own threshold.

    Args:
      params: parameters of the module.
      request: from this model's `request`.
      prepared: from `prepare`; if None, every call prepares the measure itself
        and uses the kernels as they are.

    Returns:
      The generated rows, [sources] or [sources * rows] of them.
    """
    request = request.map_rows(jnp.asarray)
    if request.has_beams:
      return beams.search(
        layer_loop.EarlyExitDecoder(params, self.config, static.StaticExit()),
        self.encode(params, request.encoder_input_tokens),
        request,
        self.output_length,
      )
    if prepared is None:
      # To lay kernels out for one call costs more than it gives.
      prepared = {'prepared': self.measure.prepare(self.config, params)}
    begun = self.begin(params, prepared, request)
    step = begun.step(
      self.decoder(params, prepared, request), self.threshold_schedule
    )
    return loop.run(step, begun.request, begun.state).result

  def encode(self, params: Params, encoder_input_tokens: jax.Array):
    """[batch, source] -> [batch, source, embed]."""
    return self.module.apply(
      {'params': params}, encoder_input_tokens, method='encode'
    )

  def begin(
    self, params: Params, prepared: Any, request: request_lib.DecodeRequest
  ) -> sequences.Sequences:
    """The request's sources encoded, its rows before their first token."""
    row_lengths = lengths.longest_outputs(request, self.output_length)
    encoded = self.encode(params, request.encoder_input_tokens)
    by_row = request.by_row()
    decoder = self.decoder(params, prepared, request)
    length, repeats = request.max_decode_length, request.rows_per_source
    return sequences.Sequences(
      by_row,
      decoder.constants(
        jnp.repeat(encoded, repeats, axis=0),
        by_row.encoder_input_tokens,
        length,
      ),
      loop.start(
        by_row,
        decoder.empty_cache(by_row.num_sources, length),
        jnp.repeat(row_lengths, repeats, axis=0),
        self.config.num_decoder_layers,
      ),
    )

  def score_batch(
    self, params: Params, batch: Mapping[str, jax.Array]
  ) -> jax.Array:
    """[batch] log-likelihood of given targets under the full model.

    Args:
      params: parameters of the module.
      batch: T5X's features, [batch, length] each.
    """
    targets = batch['decoder_target_tokens']
    logits = self.module.apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      targets,
      batch.get('encoder_segment_ids'),
      batch.get('decoder_segment_ids'),
      enable_dropout=False,
    )
    log_probs = jax.nn.log_softmax(logits)
    scores = cross_entropy.target_logits(log_probs, targets)
    return jnp.sum(scores * cross_entropy.loss_weights(batch), axis=-1)

  def decoder(
    self, params: Params, prepared: Any, request: request_lib.DecodeRequest
  ) -> layer_loop.EarlyExitDecoder | oracle.OracleDecoder:
    """The decoder with this model's exits, as the request wants it."""
    decoder = layer_loop.EarlyExitDecoder(
      params,
      self.config,
      self.measure,
      exit_layers=self.exit_layers,
      skipped_layers=self.skipped_layers,
      sampler=request.sampler,
      **prepared,
      trace=request.trace,
      rows_per_pack=self.rows_per_pack,
    )
    if isinstance(self.measure, oracle.Oracle):
      return oracle.OracleDecoder(decoder)
    return decoder


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
