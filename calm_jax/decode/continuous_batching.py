"""Many sequences through one batch: a finished row makes room for the next.

    queue of sources --refill--> slots --advance--> finished rows --> results
                           ^                             |
                           +-----------------------------+

In plain batches a long output holds all rows of its batch. Here its neighbours
are replaced as they end (continuous batching, Yu et al. 2022, Orca). Rows are
independent, so a sequence's output is the same in any company, up to rounding:
its place in the rings of the caches (`early_exit.clock`) changes the order of
sums.

For one device: the host refills the slots of one program. Several devices get
plain batches (`token_generator`).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from calm_jax.decode import (
  decode_arguments,
  decoding,
  early_exit_model,
  row_inputs,
)
from calm_jax.early_exit.engine import sampling
from calm_jax.t5 import rows as rows_lib


@struct.dataclass
class Slots:
  """The rows of the batch, each with a sequence of its own.

  Attributes:
    inputs: what the sequences read.
    state: how far they are; slots without a sequence count as finished.
  """

  inputs: row_inputs.RowInputs
  state: decoding.DecodingState


@dataclasses.dataclass(frozen=True)
class Queue:
  """Sequences to be generated: what the model's `generate` takes, row by row.

  Attributes:
    tokens: [n, source] encoder inputs.
    thresholds: [n] in [0, 1].
    seeds: [n] uint32, or None when decoding greedily.
    prompts: [n, length] tokens that outputs start with, or None.
  """

  tokens: np.ndarray
  thresholds: np.ndarray
  seeds: np.ndarray | None = None
  prompts: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.tokens)

  def rows(self, numbers: np.ndarray) -> tuple[np.ndarray | None, ...]:
    """The arrays of some sequences."""
    arrays = (self.tokens, self.thresholds, self.seeds, self.prompts)
    return tuple(None if x is None else x[numbers] for x in arrays)


class ContinuousBatch:
  """Compiled refilling and advancing for one model and batch size.

  Attributes:
    batch_size: sequences in flight.
    rows_per_refill: slots that are refilled together, so that the encoder runs
      on as many sources; an eighth of the batch.
  """

  def __init__(
    self,
    model: early_exit_model.EarlyExitModel,
    batch_size: int,
    max_decode_length: int,
    *,
    trace: bool = False,
    sampler: sampling.Sampler | None = None,
    eos_id: int = decode_arguments.EOS_ID,
  ):
    """Compiles nothing yet; arguments as for the model's `generate`."""
    self.batch_size = batch_size
    self.rows_per_refill = max(1, batch_size // 8)
    self._model = model
    self._length = max_decode_length
    self._trace = trace
    self._sampler = sampler
    self._eos_id = eos_id
    # Compiled, so that every array is a buffer of its own, to be donated.
    self._empty = jax.jit(self._traceable_empty)
    self._refill = jax.jit(self._traceable_refill, donate_argnums=2)
    self._advance = jax.jit(self._traceable_advance, donate_argnums=2)

  def generate(
    self, params: Any, prepared: Any, queue: Queue
  ) -> decoding.DecodeResult:
    """The results of `run` in the order of the queue, [n, ...] arrays."""
    found = sorted(self.run(params, prepared, queue), key=lambda x: x[0])
    results = [result for _, result in found]
    return jax.tree.map(lambda *x: np.stack(x), *results)

  def run(
    self, params: Any, prepared: Any, queue: Queue
  ) -> Iterator[tuple[int, decoding.DecodeResult]]:
    """Generates all sequences of a queue.

    Args:
      params: parameters of the model.
      prepared: from the model's `prepare`.
      queue: what to generate, at least one sequence; the first are begun first.

    Yields:
      The number of a sequence in the queue and its result, NumPy arrays
      without the batch axis, in the order in which sequences finish.
    """
    nobody = np.zeros(self.batch_size, int)
    slots = self._empty(params, prepared, *queue.rows(nobody))
    # Number of the sequence in each slot; -1 without one.
    owners = np.full(self.batch_size, -1)
    begun = 0
    while True:
      free = np.flatnonzero(owners < 0)
      while len(free) and begun < len(queue):
        chosen = free[: min(self.rows_per_refill, len(queue) - begun)]
        owners[chosen] = begun + np.arange(len(chosen))
        slots = self._begun(params, prepared, slots, chosen, owners, queue)
        begun += len(chosen)
        free = free[len(chosen) :]
      if not (owners >= 0).any():
        return
      wanted = len(free) + self.rows_per_refill
      if begun == len(queue):
        # Nothing waits for a slot: the last ones end together.
        wanted = self.batch_size
      slots = self._advance(params, prepared, slots, jnp.int32(wanted))
      state = slots.state
      ended = np.flatnonzero(np.asarray(state.finished) & (owners >= 0))
      results, starts = jax.device_get((state.result, state.clock.starts))
      for slot in ended:
        yield int(owners[slot]), _result_of(results, slot, starts[slot])
      owners[ended] = -1

  def _begun(self, params, prepared, slots, chosen, owners, queue) -> Slots:
    """The slots, the chosen ones with the sequences that now own them."""
    filled_up = np.resize(chosen, self.rows_per_refill)
    rows = rows_lib.Rows(jnp.asarray(filled_up), jnp.int32(len(chosen)))
    sequences = queue.rows(owners[filled_up])
    return self._refill(params, prepared, slots, rows, *sequences)

  def _traceable_empty(self, params, prepared, *sequences) -> Slots:
    """Slots without sequences, but of the shapes of these."""
    shapes, _ = jax.eval_shape(self._sequences, params, prepared, *sequences)
    inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    decoder = self._decoder(params, prepared)
    state = decoding.start(
      decoder.empty_cache(self.batch_size, self._length),
      self.batch_size,
      self._length,
      self._model.config.num_decoder_layers if self._trace else 0,
    )
    return Slots(inputs, state.replace(finished=~state.finished))

  def _decoder(self, params, prepared):
    return self._model.decoder(
      params, prepared, trace=self._trace, sampler=self._sampler
    )

  def _sequences(self, params, prepared, tokens, thresholds, seeds, prompts):
    """What new sequences read, and their longest outputs."""
    decode_arguments.check_seeds(self._sampler, seeds)
    prompts = decode_arguments.checked_prompts(
      prompts, self._eos_id, self._length
    )
    encoded = self._model.encode(params, tokens)
    constants = self._decoder(params, prepared).constants(
      encoded, tokens, self._length
    )
    inputs = row_inputs.RowInputs(constants, thresholds, seeds, prompts)
    return inputs, self._model.row_lengths(tokens, self._length, prompts)

  def _traceable_refill(self, params, prepared, slots, rows, tokens, *others):
    inputs, lengths = self._sequences(params, prepared, tokens, *others)
    state = slots.state
    cache = self._decoder(params, prepared).restarted(
      state.cache, rows, state.clock.time
    )
    return Slots(
      slots.inputs.put(rows, inputs),
      decoding.restarted(
        state, rows, lengths, cache, is_padding=jnp.all(tokens == 0, axis=-1)
      ),
    )

  def _traceable_advance(self, params, prepared, slots, num_finished):
    step = slots.inputs.step(
      self._decoder(params, prepared),
      self._model.threshold_schedule,
      self._length,
    )
    state = decoding.run(
      step,
      slots.state,
      eos_id=self._eos_id,
      num_finished=num_finished,
      prompts=slots.inputs.prompts,
    )
    return slots.replace(state=state)


def _result_of(results, slot: int, start: int) -> decoding.DecodeResult:
  """One row's result, its columns from its first token on."""

  def of_row(array):
    row = array[slot]
    return np.roll(row, -start, axis=0) if row.ndim else row

  return jax.tree.map(of_row, results)
