"""Token rows in, decoded arrays out: a model on its devices, compiled.

    tokens, thresholds --one batch, batches or a queue--> DecodeResult

What `generation.TextGenerator` adds is text.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import errors
from calm_jax.decode import (
  beam_search,
  continuous_batching,
  decode_arguments,
  decoding,
  early_exit_model,
)
from calm_jax.early_exit.engine import sampling
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
    model: early_exit_model.EarlyExitModel,
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
      self._traceable_generate,
      static_argnames=('trace', 'sampler', 'max_decode_length'),
    )
    self._beam_search = jax.jit(
      model.beam_search, static_argnames=('num_beams', 'max_decode_length')
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

  def _traceable_generate(self, params, prepared, rows, eos_id, **static):
    """`generate` of the model, its rows divided: [sources, ...] arrays."""

    def generate(common, rows):
      params, prepared, eos_id = common
      return self.model.generate(
        params, prepared=prepared, eos_id=eos_id, **rows, **static
      )

    return self._division.divide(generate)((params, prepared, eos_id), rows)

  def run_encoder(self, tokens: np.ndarray) -> None:
    """Runs the encoder alone and waits for it: for timing it by itself.

    Args:
      tokens: [batch, inputs_length].
    """
    if len(tokens):
      self._encoder(self.params, jnp.asarray(tokens)).block_until_ready()

  def generate_tokens(
    self,
    tokens: np.ndarray,
    thresholds: np.ndarray,
    *,
    trace: bool = False,
    sampler: sampling.Sampler | None = None,
    seeds: np.ndarray | None = None,
    prompts: np.ndarray | None = None,
    eos_id: int = decode_arguments.EOS_ID,
    max_decode_length: int | None = None,
    batch_size: int | None = None,
  ) -> decoding.DecodeResult:
    """Compiled generation; one program per shape, whatever the thresholds.

    Args:
      tokens: [batch, inputs_length], rows of zeros generate nothing.
      thresholds: [batch] or [batch, grid] in [0, 1].
      trace, sampler, seeds, prompts, eos_id: as for
        `early_exit_model.EarlyExitModel.generate`.
      max_decode_length: longest output; the generator's if None.
      batch_size: rows in flight; all of them if None. On one device the end of
        one makes room for the next (`continuous_batching`); several devices
        decode one plain batch after the other.

    Returns:
      NumPy arrays, [batch * grid, ...]; a batch of no rows gives none.

    Raises:
      ConfigError: arrays that do not belong together, a threshold outside
        [0, 1], a batch_size or max_decode_length that is no positive integer;
        as `generate`.
      NumericError: the model computes NaN or infinity.
    """
    rows = {
      'encoder_input_tokens': tokens,
      'thresholds': np.asarray(thresholds, np.float32),
      'seeds': seeds,
      'prompts': prompts,
    }
    rows = {k: np.asarray(x) for k, x in rows.items() if x is not None}
    decode_arguments.check_rows(**rows)
    decode_arguments.check_thresholds(rows['thresholds'])
    decode_arguments.check_seeds(sampler, seeds)
    if batch_size is not None:
      _check_positive('batch_size', batch_size)
    options = {
      'trace': trace,
      'sampler': sampler,
      'eos_id': self._checked_eos_id(eos_id),
      'max_decode_length': self.longest_output(max_decode_length),
    }
    if not rows['thresholds'].size:
      return self._no_rows(trace, options['max_decode_length'])
    if batch_size is None:
      result = self._one_batch(rows, **options)
    elif self._division.num_devices > 1:
      result = self._batches(rows, batch_size, **options)
    else:
      result = self._queue(rows, batch_size, **options)
    _check_finite(result.log_probs)
    return result

  def _no_rows(self, trace: bool, length: int) -> decoding.DecodeResult:
    num_traced = self.model.config.num_decoder_layers if trace else 0
    return jax.device_get(decoding.start((), 0, length, num_traced).result)

  def _one_batch(self, rows, **options) -> decoding.DecodeResult:
    # Rows of zeros fill up the last device.
    padded = {k: self._division.pad(x) for k, x in rows.items()}
    result = self._generate(self.params, self._prepared, padded, **options)
    result = jax.device_get(result)
    count = rows['thresholds'].size
    return jax.tree.map(lambda x: x[:count], result)

  def _batches(self, rows, batch_size, **options) -> decoding.DecodeResult:
    """One batch after the other, the last one filled up with rows of zeros."""
    count, per_source = len(rows['thresholds']), rows['thresholds'][0].size
    size = max(1, batch_size // per_source)
    padded = {k: data_parallel.pad(x, size) for k, x in rows.items()}
    slices = (slice(i, i + size) for i in range(0, count, size))
    results = [
      self._one_batch({k: x[part] for k, x in padded.items()}, **options)
      for part in slices
    ]
    together = jax.tree.map(lambda *x: np.concatenate(x), *results)
    return jax.tree.map(lambda x: x[: count * per_source], together)

  def _queue(
    self, rows, batch_size, max_decode_length, **options
  ) -> decoding.DecodeResult:
    """All rows through one batch of slots."""
    per_source = rows['thresholds'][0].size
    by_row = {
      name: x.reshape(-1)
      if name in ('thresholds', 'seeds')
      else np.repeat(x, per_source, axis=0)
      for name, x in rows.items()
    }
    batch = self._continuous_batch(batch_size, max_decode_length, **options)
    queue = continuous_batching.Queue(
      by_row.pop('encoder_input_tokens'), **by_row
    )
    return batch.generate(self.params, self._prepared, queue)

  def search_tokens(
    self,
    tokens: np.ndarray,
    num_beams: int,
    *,
    alpha: float = 0.6,
    prompts: np.ndarray | None = None,
    eos_id: int = decode_arguments.EOS_ID,
    max_decode_length: int | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Compiled beam search with the full model.

    Args:
      tokens, prompts, eos_id, max_decode_length: as for `generate_tokens`.
      num_beams: sequences kept per row; 1 is greedy decoding.
      alpha: exponent of the length penalty; 0 for none.

    Returns:
      Tokens [batch, beams, target] and scores [batch, beams], the best last,
      -inf for beams that hold nothing.

    Raises:
      ConfigError: no beam, a negative or infinite alpha; as `generate_tokens`.
      NumericError: the model computes NaN or infinity.
    """
    length = self.longest_output(max_decode_length)
    beam_search.check_search(num_beams, alpha, length)
    eos_id = self._checked_eos_id(eos_id)
    decode_arguments.check_prompt_rows(tokens, prompts)
    if not len(tokens):
      shape = (0, num_beams)
      return np.zeros((*shape, length), np.int32), np.zeros(shape, np.float32)
    found = self._beam_search(
      self.params,
      jnp.asarray(tokens),
      num_beams=num_beams,
      alpha=jnp.float32(alpha),
      eos_id=eos_id,
      max_decode_length=length,
      prompts=prompts,
    )
    tokens, scores = jax.device_get(found)
    # The best beam always holds a sequence; others may not.
    _check_finite(scores[:, -1])
    _check_finite(np.where(np.isneginf(scores), 0.0, scores))
    return tokens, scores

  def longest_output(self, max_decode_length: int | None) -> int:
    """The longest output of a call that gives this max_decode_length.

    Raises:
      ConfigError: it is no positive integer.
    """
    if max_decode_length is None:
      return self.max_decode_length
    _check_positive('max_decode_length', max_decode_length)
    return max_decode_length

  def _checked_eos_id(self, eos_id: int) -> int:
    decode_arguments.check_eos_id(eos_id, self.model.config.vocab_size)
    return int(eos_id)


def _check_positive(name: str, number: int) -> None:
  if type(number) is not int or number < 1:
    raise errors.ConfigError(
      f'{name} must be an integer of at least 1, got {number!r}.'
    )


def _check_finite(log_probs: np.ndarray) -> None:
  if not np.isfinite(log_probs).all():
    raise errors.NumericError(
      'The model computes log-probabilities that are not finite; its'
      ' parameters are damaged or its training diverged.'
    )
