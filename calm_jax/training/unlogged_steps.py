"""Steps that no line of metrics holds yet, kept for the run that resumes.

    training.logs --Window--> MODEL_DIR/train/unlogged_steps.json
                               `--> training.logs of the resumed run

A checkpoint between two lines would otherwise cut the average of the second
one short.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from calm_jax.records import json_records

FILE_NAME = 'unlogged_steps.json'


@dataclasses.dataclass(frozen=True)
class Window(json_records.Record):
  """What was added up since the last line of metrics.

  Attributes:
    step: of the checkpoint.
    seconds: that the steps took.
    pauses: seconds that are counted apart, by their name in the metrics.
    scalars: sums over the steps; none where a line was just written.
    layers: sums of each layer.
  """

  step: int
  seconds: float
  pauses: dict[str, float]
  scalars: dict[str, float]
  layers: dict[str, tuple[float, ...]]

  @classmethod
  def of(
    cls,
    step: int,
    seconds: float,
    pauses: Mapping[str, float],
    total: Mapping[str, Any] | None,
  ) -> Self:
    """Takes sums as `metrics.add` gives them."""
    total = total or {}
    return cls(
      step,
      seconds,
      dict(pauses),
      {k: float(x) for k, x in total.items() if np.ndim(x) == 0},
      {k: tuple(x.tolist()) for k, x in total.items() if np.ndim(x)},
    )

  @property
  def total(self) -> dict[str, np.ndarray] | None:
    """The sums, bit by bit; None where there are none."""
    sums = {**self.scalars, **self.layers}
    return {k: np.asarray(x, np.float64) for k, x in sums.items()} or None


@dataclasses.dataclass(frozen=True)
class _File(json_records.Record):
  schema_version: int
  windows: tuple[Window, ...]


class UnloggedSteps:
  """The windows of the newest checkpoint and of the next one.

  Args:
    directory: of the metrics.
    start_step: of the checkpoint that the run begins with.

  Attributes:
    found: that checkpoint's window, if an earlier run kept it.

  Raises:
    DataError: the file is damaged.
  """

  def __init__(self, directory: pathlib.Path, start_step: int):
    self._path = directory / FILE_NAME
    self.found: Window | None = None
    if start_step and self._path.exists():
      there = json_records.read_json(self._path, _File)
      for window in there.windows:
        if window.step == start_step:
          self.found = window
    self._newest = self.found

  def keep(self, window: Window) -> None:
    """Writes a window; to be called before its checkpoint is saved.

    That of the checkpoint before stays beside it: after a kill between the two
    it is the one that is resumed from.
    """
    windows = (window,) if self._newest is None else (self._newest, window)
    json_records.write_json_atomically(
      self._path, _File(json_records.SCHEMA_VERSION, windows)
    )
    self._newest = window
