"""Sequences: rows of a batch on their way through the token loop."""

from typing import Any

import jax
from flax import struct

from calm_jax.decode import loop
from calm_jax.decode import request as request_lib
from calm_jax.early_exit.engine import decoder_state, layer_loop, schedule
from calm_jax.early_exit.measures import oracle
from calm_jax.t5 import rows as rows_lib


@struct.dataclass
class Sequences:
  """What was asked for each row, what its tokens read, and how far it is.

  Attributes:
    request: by row.
    constants: what the decoder reads of the sources.
    state: of the token loop.
  """

  request: request_lib.DecodeRequest
  constants: decoder_state.DecoderConstants
  state: loop.DecodingState

  def put(
    self, rows: rows_lib.Rows, new: 'Sequences', cache: Any
  ) -> 'Sequences':
    """These, some rows of which begin new sequences now.

    Args:
      rows: which ones; they have finished.
      new: the new sequences alone.
      cache: in which those rows have been begun.
    """
    request = rows.put(
      self.request.replace(eos_id=None), new.request.replace(eos_id=None)
    )
    return Sequences(
      request=request.replace(eos_id=self.request.eos_id),
      constants=self.constants.put(rows, new.constants),
      state=loop.restarted(self.state, rows, new.state, cache),
    )

  def step(
    self,
    decoder: layer_loop.EarlyExitDecoder | oracle.OracleDecoder,
    threshold_schedule: schedule.ThresholdSchedule,
  ) -> loop.TokensToStep:
    """What `loop.run` calls for every token.

    A row's draws depend on its own seed and position, not on its place in the
    batch, nor on when it began.
    """
    request = self.request

    def tokens_to_step(fed, cache) -> tuple[Any, Any]:
      positions = fed.clock.positions
      thresholds = threshold_schedule(
        request.thresholds, positions, request.max_decode_length
      )
      keys = None
      if request.seeds is not None:
        keys = jax.vmap(jax.random.key)(request.seeds)
        keys = jax.vmap(jax.random.fold_in)(keys, positions)
      return decoder(fed, thresholds, self.constants, cache, keys)

    return tokens_to_step
