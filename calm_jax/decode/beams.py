"""A beam search for what a request asks, as a DecodeResult.

encoded --full model, beam_search--> beams --search--> DecodeResult
"""

import jax
import jax.numpy as jnp

from calm_jax.decode import beam_search, lengths
from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib
from calm_jax.early_exit.engine import layer_loop


def search(
  decoder: layer_loop.EarlyExitDecoder,
  encoded: jax.Array,
  request: request_lib.DecodeRequest,
  bound: lengths.ProportionalLength | None,
) -> result_lib.DecodeResult:
  """The best outputs that the full model finds.

  Args:
    decoder: of the model.
    encoded: [sources, source, embed].
    request: whose `decode_fn` is a beam search, with as many beams as rows.
    bound: the model's bound of an output by its input, if it has one.

  Returns:
    The beams of each source, the best last. `log_probs` are their scores, over
    the length penalty; -inf for beams that hold no sequence. All layers are
    used but by prompts, and no confidence is measured (NaN).
  """
  by_row, num_beams = request.by_row(), request.rows_per_source
  length = request.max_decode_length
  constants = decoder.constants(
    jnp.repeat(encoded, num_beams, axis=0), by_row.encoder_input_tokens, length
  )
  # Without a bound by the input, beams need not end at the last token.
  row_lengths = bound and lengths.longest_outputs(request, bound)
  tokens, scores = beam_search.beam_decode(
    lambda token, position, cache: decoder.full_model_logits(
      token, position, constants, cache
    ),
    decoder.empty_cache(by_row.num_sources, length),
    batch_size=request.num_sources,
    num_beams=num_beams,
    max_decode_length=length,
    eos_id=request.eos_id,
    alpha=request.decode_fn.alpha,
    row_lengths=row_lengths,
    prompts=request.prompts,
  )
  num_layers = decoder.config.num_decoder_layers
  return _result(by_row, tokens.reshape(-1, length), scores, num_layers)


def _result(request, tokens, scores, num_layers) -> result_lib.DecodeResult:
  """Of beams, [sources * beams, ...]; sources of padding have none."""
  is_source = ~request.is_padding
  scores = jnp.where(is_source, scores.reshape(-1), 0.0)
  tokens = jnp.where(is_source[:, None], tokens, 0)
  is_end = tokens == request.eos_id
  is_ended = jnp.cumsum(is_end, axis=1) > is_end
  holds_any = is_source & (scores > -jnp.inf)
  is_token = holds_any[:, None] & ~is_ended
  if request.prompts is not None:
    is_prompt = jnp.zeros_like(is_token)
    is_prompt = is_prompt.at[:, : request.prompts.shape[1]].set(
      request.prompts > 0
    )
    is_token &= ~is_prompt
  empty = result_lib.DecodeResult.empty(*tokens.shape, num_traced=0)
  return empty.replace(
    tokens=tokens,
    num_layers_used=jnp.where(is_token, num_layers, 0),
    confidences=jnp.where(is_token, jnp.nan, 0.0),
    log_probs=scores,
  )
