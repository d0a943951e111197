"""Makes a p-value for [0, 1] serve losses in [-1, 1], such as differences.

If L is in [-1, 1] then (L + 1) / 2 is in [0, 1], and E[L] > d is the same as
E[(L + 1) / 2] > (d + 1) / 2. Valid for every p-value, but it halves the gap
between mean and tolerance and moves both next to 1/2, where bounds of the mean
alone assume a large variance. `betting.Betting` needs no rescaling.
"""

import dataclasses

from calm_jax import errors
from calm_jax.calibration import loss_ranges, p_values


@dataclasses.dataclass(frozen=True)
class Rescaled(p_values.PValue):
  """Another p-value, of (losses + 1) / 2 and (tolerance + 1) / 2.

  Attributes:
    inner: a p-value that accepts losses in [0, 1].

  Raises:
    ConfigError: when made, if the inner one does not.
  """

  inner: p_values.PValue = p_values.HoeffdingBentkus()  # noqa: RUF009

  accepts = loss_ranges.SIGNED_UNIT

  def __post_init__(self):
    if not self.inner.accepts.includes(loss_ranges.UNIT):
      raise errors.ConfigError(
        'Rescaled needs a p-value for losses in [0, 1], got'
        f' {self.inner!r} for losses that are {self.inner.accepts.description}.'
      )

  def _of_losses(self, losses, tolerance):
    return self.inner((losses + 1.0) / 2.0, (tolerance + 1.0) / 2.0)
