"""When a token is fed in: one time for the batch, a position for each row.

Rows of a batch need not begin together: where one has ended, another sequence
can take its place. Yet all of them write to the same column of their caches,
because caches are rings: what happens at time t lies in slot t modulo their
length. A row's position is its age; T5's attention asks for no more than the
distance between two positions.

Worked example, caches of length 4. Row 0 began at time 0, row 1 at time 3. At
time 5 both write slot 1. Row 0 must have ended after time 3, being 4 tokens
long at most; row 1 is at position 2 and sees slots 3, 0 and 1.
"""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from calm_jax.t5 import rows as rows_lib


@struct.dataclass
class Clock:
  """The time of a token.

  Attributes:
    time: since the batch began; of all rows, or [rows] of positions that are
      looked at again.
    starts: [rows], when each row's sequence began.
  """

  time: Int[Array, '...']
  starts: Int[Array, ' rows']

  @property
  def positions(self) -> Int[Array, ' rows']:
    """0-based positions of the token in each row's sequence."""
    return self.time - self.starts

  def is_seen(self, length: int) -> Bool[Array, 'rows length']:
    """Which slots hold the row's own positions up to this one."""
    distances = (self.time[..., None] - jnp.arange(length)) % length
    return distances <= self.positions[:, None]

  def of_rows(self, rows: rows_lib.Rows) -> 'Clock':
    """The same for some rows of the batch."""
    return self.replace(starts=rows.take(self.starts))
