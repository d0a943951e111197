"""Token rows in, decoded arrays out: a model on its devices, compiled.

    tokens, thresholds --one batch, batches or a queue--> DecodeResult

What `generation.TextGenerator` adds is text.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import errors
from calm_jax.decode import checks, continuous_batching
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib
from calm_jax.parallel import data_parallel, partitioning
from calm_jax.t5 import compute_dtype


class TokenGenerator:
  """A model that continues token rows; one program per shape.

  Attributes:
    model: network, measure and schedule.
    params: its parameters.
    max_decode_length: outputs end here at the latest, unless a call says
      otherwise; each length costs a compilation.
  """

  def __init__(
    self,
    model: model_lib.EncoderDecoderModel,
    params: Any,
    *,
    max_decode_length: int = 64,
    devices: Sequence[jax.Device] | None = None,
    partitioner: partitioning.PjitPartitioner | None = None,
  ):
    """Puts the parameters on the devices.

    Args:
      model, params, max_decode_length: see above.
      devices: the rows of a batch are divided among them; all local ones if
        None.
      partitioner: where its num_partitions is above 1, the parameters are
        divided among its devices, and `devices` is not looked at.

    Raises:
      DataError: a classifier belongs to another model.
    """
    model.measure.check(model.config, params)
    self.model = model
    self.max_decode_length = max_decode_length
    self._is_divided = (
      partitioner is not None and partitioner.num_partitions > 1
    )
    self._division = (
      data_parallel.DividedModel(partitioner, model.module)
      if self._is_divided
      else data_parallel.RowDivision(devices or jax.local_devices())
    )
    self.params = self._division.place(
      compute_dtype.round_kernels(params, model.config)
    )
    self._prepared = jax.jit(self._traceable_prepare)(self.params)
    self._encoder = jax.jit(model.encode)
    self._generate = jax.jit(
      self._division.divide(
        lambda weights, request: model.generate(weights[0], request, weights[1])
      )
    )
    # Compiled programs are kept with it.
    self._continuous_batch = functools.cache(
      functools.partial(continuous_batching.ContinuousBatch, model)
    )

  def _traceable_prepare(self, params):
    prepared = self.model.prepare(params)
    if self._is_divided:
      # The parts of a joined kernel would lie on other devices than the states
      # that they make.
      del prepared['joined']
    return prepared

  def run_encoder(self, tokens: np.ndarray) -> None:
    """Runs the encoder alone and waits for it: for timing it by itself.

    Args:
      tokens: [batch, inputs_length].
    """
    if len(tokens):
      self._encoder(self.params, jnp.asarray(tokens)).block_until_ready()

  def request(
    self,
    tokens: Any,
    thresholds: Any = None,
    *,
    max_decode_length: int | None = None,
    **asked,
  ) -> request_lib.DecodeRequest:
    """A request for `generate_tokens`.

    Args:
      tokens: [sources, inputs_length], rows of zeros generate nothing.
      thresholds: [sources] or [sources, rows]; the full model if None.
      max_decode_length: longest output; the generator's if None.
      **asked: other arguments of `request.make`.

    Raises:
      ConfigError: as `request.make`, or the oracle with a sampler.
    """
    if max_decode_length is None:
      max_decode_length = self.max_decode_length
    return self.model.request(
      tokens, thresholds, max_decode_length=max_decode_length, **asked
    )

  def generate_tokens(
    self, request: request_lib.DecodeRequest, *, batch_size: int | None = None
  ) -> result_lib.DecodeResult:
    """Compiled generation; one program per shape, whatever the thresholds.

    Args:
      request: from `request`, of NumPy arrays.
      batch_size: rows in flight; all of them if None. On one device the end of
        one makes room for the next (`continuous_batching`); several devices,
        and beam searches, decode one plain batch after the other.

    Returns:
      NumPy arrays, [sources * rows, ...]; a request of no rows gives none.

    Raises:
      ConfigError: a batch_size that is no positive integer.
      NumericError: the model computes NaN or infinity.
    """
    if batch_size is not None:
      checks.check_positive('batch_size', batch_size)
    if not request.num_rows:
      return self._no_rows(request)
    in_batches = request.has_beams or self._division.num_devices > 1
    if batch_size is None or in_batches:
      results = []
      for batch in _batches(request, batch_size or request.num_rows):
        # Rows of zeros fill up the last device.
        found = self._generate(
          (self.params, self._prepared), batch.map_rows(self._division.pad)
        )
        results.append(_first_rows(jax.device_get(found), batch.num_rows))
      together = jax.tree.map(lambda *x: np.concatenate(x), *results)
      result = _first_rows(together, request.num_rows)
    else:
      batch = self._continuous_batch(batch_size)
      result = batch.generate(self.params, self._prepared, request)
    _check_finite(request, result.log_probs)
    return result

  def _no_rows(
    self, request: request_lib.DecodeRequest
  ) -> result_lib.DecodeResult:
    num_traced = self.model.config.num_decoder_layers if request.trace else 0
    length = request.max_decode_length
    return jax.device_get(result_lib.DecodeResult.empty(0, length, num_traced))


def _batches(
  request: request_lib.DecodeRequest, batch_size: int
) -> Iterator[request_lib.DecodeRequest]:
  """One batch after the other, the last one filled up with rows of zeros."""
  size = max(1, batch_size // request.rows_per_source)
  request = request.map_rows(lambda x: data_parallel.pad(x, size))
  for start in range(0, request.num_sources, size):
    yield request.map_rows(lambda x, start=start: x[start : start + size])


def _first_rows(result, count: int) -> result_lib.DecodeResult:
  return jax.tree.map(lambda x: x[:count], result)


def _check_finite(request, log_probs: np.ndarray) -> None:
  if request.has_beams:
    # The best beam always holds a sequence; others may not.
    log_probs = log_probs.reshape(request.num_sources, -1).max(axis=1)
  if not np.isfinite(log_probs).all():
    raise errors.NumericError(
      'The model computes log-probabilities that are not finite; its'
      ' parameters are damaged or its training diverged.'
    )
