"""T5X's `predict_batch`: batches of features in, decodes out.

batch, decoder_params --settle--> DecodeRequest --model--> decodes
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.decode import checks, decode_fns, outputs
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import sampling
from calm_jax.t5x import decoder_params as decoder_params_lib


class Predictor:
  """Decodes batches of T5X's features, with T5X's names and arguments.

  Attributes:
    model: the network and its exits.
    threshold: of all tokens that are generated; 1 is the full model.
    decode_fn: how tokens are chosen.
    default_decoder_params: what calls ask for that do not say.
    eos_id: the token that ends an output.

  Raises:
    ConfigError: the threshold is outside [0, 1].
  """

  def __init__(
    self,
    model: model_lib.EncoderDecoderModel,
    *,
    threshold: float = 1.0,
    decode_fn: decode_fns.DecodeFn = decode_fns.Greedy(),  # noqa: B008
    default_decoder_params: decoder_params_lib.DecoderParams = (
      decoder_params_lib.DecoderParams()  # noqa: B008
    ),
    eos_id: int = request_lib.EOS_ID,
  ):
    checks.check_thresholds(threshold)
    self.model = model
    self.threshold = threshold
    self.decode_fn = decode_fn
    self.default_decoder_params = default_decoder_params
    self.eos_id = eos_id

  def predict_batch(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None = None,
    **kwargs,
  ) -> jax.Array:
    """[batch, target] tokens; arguments as in `predict_batch_with_aux`."""
    return self.predict_batch_with_aux(params, batch, rng, **kwargs)[0]

  def predict_batch_with_aux(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    rng: jax.Array | None = None,
    decoder_params: Mapping[str, Any] | None = None,
    return_all_decodes: bool | None = None,
    num_decodes: int | None = None,
    prompt_with_targets: bool = False,
    *,
    threshold: float | jax.Array | None = None,
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
        (`request.row_seeds`).
      decoder_params: T5X's parameters of a decode_fn for this call, as
        `decoder_params.settle` lists them.
      return_all_decodes: all of them, from the worst to the best by their
        scores as in T5X, instead of the best one; the default if None.
      num_decodes: outputs per source, the number of beams for a beam search;
        the default if None.
      prompt_with_targets: outputs start with `decoder_input_tokens`, which
        begin with the start symbol 0 as T5X's do. A prompt ends before its
        first EOS or 0.
      threshold: one for all rows, or [batch]; the predictor's if None.
      decode_fn: the predictor's if None.
      max_decode_length: longest output in tokens, T5X's `max_decode_len`.

    Returns:
      As `outputs.by_source`.

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
    call = decoder_params_lib.settle(
      decode_fn or self.decode_fn,
      decoder_params,
      rng=rng,
      max_decode_length=max_decode_length,
      default_eos_id=self.eos_id,
    )
    checks.check_num_decodes(num_decodes, call.decode_fn)
    source, inputs = (
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
    )
    shape = (source.shape[0], num_decodes)
    draws = isinstance(call.decode_fn, sampling.Sampler)
    request = self.model.request(
      source,
      _of_shape(self.threshold if threshold is None else threshold, shape),
      seeds=request_lib.row_seeds(call.rng, *shape) if draws else None,
      # Without the start symbol; the model itself decides where to end.
      prompts=inputs[:, 1:] if prompt_with_targets else None,
      decode_fn=call.decode_fn,
      eos_id=call.eos_id,
      max_decode_length=call.max_decode_length or inputs.shape[1],
      max_decode_steps=call.max_decode_steps,
    )
    result = self.model.generate(params, request)
    return outputs.by_source(request, result, return_all_decodes)


def _of_shape(threshold, shape):
  """One threshold, or one of each row, for all decodes."""
  xp = jnp if isinstance(threshold, jax.Array) else np
  columns = xp.atleast_1d(xp.asarray(threshold, np.float32))[:, None]
  return xp.broadcast_to(columns, shape)
