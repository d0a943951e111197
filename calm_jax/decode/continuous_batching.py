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

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.decode import loop, sequences
from calm_jax.decode import model as model_lib
from calm_jax.decode import request as request_lib
from calm_jax.decode import result as result_lib
from calm_jax.t5 import rows as rows_lib


class ContinuousBatch:
  """Compiled refilling and advancing for one model and batch size.

  Attributes:
    batch_size: sequences in flight.
    rows_per_refill: slots that are refilled together, so that the encoder runs
      on as many sources; an eighth of the batch.
  """

  def __init__(self, model: model_lib.EncoderDecoderModel, batch_size: int):
    """Compiles nothing yet."""
    self.batch_size = batch_size
    self.rows_per_refill = max(1, batch_size // 8)
    self._model = model
    # Compiled, so that every array is a buffer of its own, to be donated.
    self._empty = jax.jit(self._traceable_empty)
    self._refill = jax.jit(self._traceable_refill, donate_argnums=2)
    self._advance = jax.jit(self._traceable_advance, donate_argnums=2)

  def generate(
    self, params: Any, prepared: Any, request: request_lib.DecodeRequest
  ) -> result_lib.DecodeResult:
    """The results of `run` in the order of the request, [n, ...] arrays."""
    found = sorted(self.run(params, prepared, request), key=lambda x: x[0])
    results = [result for _, result in found]
    return jax.tree.map(lambda *x: np.stack(x), *results)

  def run(
    self, params: Any, prepared: Any, request: request_lib.DecodeRequest
  ) -> Iterator[tuple[int, result_lib.DecodeResult]]:
    """Generates all sequences of a request.

    Args:
      params: parameters of the model.
      prepared: from the model's `prepare`.
      request: of any number of rows, at least one; the first are begun first.

    Yields:
      The number of a row of the request and its result, NumPy arrays without
      the batch axis, in the order in which rows finish.
    """
    queue, num_rows = request.by_row().map_rows(np.asarray), request.num_rows
    slots = self._empty(params, prepared, _rows(queue, [0] * self.batch_size))
    # Number of the row in each slot; -1 without one.
    owners = np.full(self.batch_size, -1)
    begun = 0
    while True:
      free = np.flatnonzero(owners < 0)
      while len(free) and begun < num_rows:
        chosen = free[: min(self.rows_per_refill, num_rows - begun)]
        owners[chosen] = begun + np.arange(len(chosen))
        slots = self._begun(params, prepared, slots, chosen, owners, queue)
        begun += len(chosen)
        free = free[len(chosen) :]
      if not (owners >= 0).any():
        return
      wanted = len(free) + self.rows_per_refill
      if begun == num_rows:
        # Nothing waits for a slot: the last ones end together.
        wanted = self.batch_size
      slots = self._advance(params, prepared, slots, jnp.int32(wanted))
      state = slots.state
      ended = np.flatnonzero(np.asarray(state.finished) & (owners >= 0))
      results, starts = jax.device_get((state.result, state.clock.starts))
      for slot in ended:
        yield int(owners[slot]), _result_of(results, slot, starts[slot])
      owners[ended] = -1

  def _begun(self, params, prepared, slots, chosen, owners, queue):
    """The slots, the chosen ones with the rows that now own them."""
    filled_up = np.resize(chosen, self.rows_per_refill)
    rows = rows_lib.Rows(jnp.asarray(filled_up), jnp.int32(len(chosen)))
    new = _rows(queue, owners[filled_up])
    return self._refill(params, prepared, slots, rows, new)

  def _traceable_empty(self, params, prepared, request) -> sequences.Sequences:
    """Slots of padding, which count as finished, in the shapes of a request."""
    shapes = jax.eval_shape(self._model.begin, params, prepared, request)
    slots = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    decoder = self._model.decoder(params, prepared, request)
    cache = decoder.empty_cache(self.batch_size, request.max_decode_length)
    state = slots.state.replace(
      cache=cache, finished=jnp.ones(self.batch_size, bool)
    )
    return slots.replace(
      state=state, request=slots.request.replace(eos_id=request.eos_id)
    )

  def _traceable_refill(self, params, prepared, slots, rows, request):
    new = self._model.begin(params, prepared, request)
    decoder = self._model.decoder(params, prepared, request)
    time = slots.state.clock.time
    return slots.put(
      rows, new, decoder.restarted(slots.state.cache, rows, time)
    )

  def _traceable_advance(self, params, prepared, slots, num_finished):
    request, model = slots.request, self._model
    step = slots.step(
      model.decoder(params, prepared, request), model.threshold_schedule
    )
    state = loop.run(step, request, slots.state, num_finished)
    return slots.replace(state=state)


def _rows(request, numbers) -> request_lib.DecodeRequest:
  """Some rows of a request."""
  return request.map_rows(lambda x: x[numbers])


def _result_of(results, slot: int, start: int) -> result_lib.DecodeResult:
  """One row's result, its columns from its first token on."""

  def of_row(array):
    row = array[slot]
    return np.roll(row, -start, axis=0) if row.ndim else row

  return jax.tree.map(of_row, results)
