"""seqio's files of an inference evaluation, as strict JSON with whole arrays.

    seqio.Evaluator --> inference_eval/<task>-metrics.jsonl, a line a step
                    --> inference_eval/<task>-<step>.jsonl, a line an example
                    --> inference_eval/<task>/events*, tags eval/<metric>

seqio's own encoder cuts arrays above 32 numbers down to a summary, and writes
bare NaN, which is no JSON. Imports seqio, and with it TensorFlow.
"""

import base64
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import seqio
from seqio import loggers


class StrictEncoder(loggers.TensorAndNumpyEncoder):
  """Whole arrays; null for numbers that are not finite."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, max_ndarray_size=math.inf, **kwargs)

  def iterencode(self, obj: Any, _one_shot: bool = False) -> Iterator[str]:
    """The text of one value."""
    return super().iterencode(self._strict(obj), _one_shot)

  def _strict(self, value: Any) -> Any:
    if isinstance(value, dict):
      return {str(key): self._strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
      return [self._strict(item) for item in value]
    if isinstance(value, float):  # NumPy's float64 is one.
      return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
      return value
    if isinstance(value, np.ndarray) and value.dtype == object:
      return self._strict(value.tolist())
    if isinstance(value, bytes):
      try:
        return value.decode('utf-8')
      except UnicodeDecodeError:  # seqio's way too, but for its type.
        return base64.b64encode(value).decode('ascii')
    return self._strict(self.default(value))


def logger_classes(
  write_n_results: int | None,
) -> Sequence[type[seqio.Logger]]:
  """What `seqio.Evaluator` makes its loggers from.

  Args:
    write_n_results: examples written at each step; None for all of them.
  """
  return (
    functools.partial(
      seqio.JSONLogger,
      write_n_results=write_n_results,
      json_encoder_cls=StrictEncoder,
    ),
    seqio.TensorBoardLogger,
  )


def as_numbers(metrics: dict[str, Any]) -> dict[str, float]:
  """The scalars among a task's metrics."""
  values = {
    name: value.value if isinstance(value, seqio.metrics.Scalar) else value
    for name, value in metrics.items()
  }
  return {
    name: float(value)
    for name, value in values.items()
    if isinstance(value, int | float | np.number)
  }
