"""What all tokens of a row read and none changes, and the step that reads it.

Between the model, which prepares it once per sequence, and the token loop.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, UInt32

from calm_jax.decode import decoding
from calm_jax.early_exit.engine import decoder_state, layer_loop, schedule
from calm_jax.early_exit.measures import oracle
from calm_jax.t5 import rows as rows_lib


@struct.dataclass
class RowInputs:
  """Sources, thresholds and seeds.

  Attributes:
    constants: what the decoder reads of the sources.
    thresholds: [batch].
    seeds: [batch], of the draws; None when decoding greedily.
    prompts: [batch, length], what outputs start with, 0 after it, or None.
  """

  constants: decoder_state.DecoderConstants
  thresholds: Float[Array, ' batch']
  seeds: UInt32[Array, ' batch'] | None = None
  prompts: Int[Array, 'batch prompt'] | None = None

  def put(self, rows: rows_lib.Rows, other: 'RowInputs') -> 'RowInputs':
    """These, with some rows replaced by those of `other`."""
    constants = self.constants.put(rows, other.constants)
    by_row = rows.put(self.replace(constants=()), other.replace(constants=()))
    return by_row.replace(constants=constants)

  def step(
    self,
    decoder: layer_loop.EarlyExitDecoder | oracle.OracleDecoder,
    threshold_schedule: schedule.ThresholdSchedule,
    max_decode_length: int,
  ) -> decoding.TokensToStep:
    """What `decoding.run` calls for every token.

    A row's draws depend on its own seed and position, not on its place in the
    batch, nor on when it began. Prompts are read by the full model.
    """

    def tokens_to_step(previous, clock, undecided, cache) -> tuple[Any, Any]:
      positions = clock.positions
      in_force = threshold_schedule(
        self.thresholds, positions, max_decode_length
      )
      is_prompt = decoding.prompt_at(self.prompts, positions) != 0
      # Never reached, but measured where later tokens may leave early.
      in_force = jnp.where(is_prompt & (in_force < 1.0), jnp.inf, in_force)
      keys = None
      if self.seeds is not None:
        keys = jax.vmap(jax.random.key)(self.seeds)
        keys = jax.vmap(jax.random.fold_in)(keys, positions)
      return decoder(
        previous,
        clock.time,
        undecided,
        in_force,
        self.constants,
        cache,
        keys,
        clock.starts,
      )

    return tokens_to_step
