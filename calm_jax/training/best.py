"""The best checkpoint of a run so far, and early stopping.

    evaluation --values by name--> History --> MODEL_DIR/best_checkpoint.json
                                           --> checkpoint_N/PINNED

The file remembers every evaluation, so that a run which was interrupted, or
killed after an evaluation and before a checkpoint, decides as an uninterrupted
one.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping

from calm_jax import errors
from calm_jax.records import json_records

FILE_NAME = 'best_checkpoint.json'
PINNED = 'PINNED'
_BETTER = {'max': float.__gt__, 'min': float.__lt__}


@dataclasses.dataclass(frozen=True)
class BestCheckpoint:
  """What makes a checkpoint the best; names are T5X's.

  Attributes:
    metric_name_to_monitor: 'training_eval/<metric>' of the teacher-forced
      evaluation, such as 'training_eval/accuracy', or
      'inference_eval/<task>/<metric>' of the decoded outputs. None chooses no
      checkpoint.
    metric_mode: whether the 'max' or the 'min' is the best.
    patience: training stops after so many evaluations in a row that were not
      the best; None trains to the end.

  Raises:
    ConfigError: another mode, no positive patience, or one without a metric.
  """

  metric_name_to_monitor: str | None = None
  metric_mode: str = 'max'
  patience: int | None = None

  def __post_init__(self):
    if self.metric_mode not in _BETTER:
      raise errors.unknown_name('metric_mode', self.metric_mode, _BETTER)
    if self.patience is not None and self.patience < 1:
      raise errors.ConfigError(
        f'patience must be None or at least 1 evaluation, got {self.patience}.'
      )
    if self.patience is not None and self.metric_name_to_monitor is None:
      raise errors.ConfigError(
        f'A patience needs a metric to watch, got {self.patience} and None;'
        " name it, such as 'training_eval/accuracy'."
      )

  def is_better(self, value: float, than: float | None) -> bool:
    """Whether a value beats the best one so far; NaN never does."""
    if not math.isfinite(value):
      return False
    return than is None or _BETTER[self.metric_mode](value, than)


@dataclasses.dataclass(frozen=True)
class Evaluation(json_records.Record):
  """The monitored value at a step; None where it was not finite."""

  step: int
  value: float | None


@dataclasses.dataclass(frozen=True)
class _File(json_records.Record):
  """What the file holds; `best_step` is for readers."""

  schema_version: int
  metric: str
  metric_mode: str
  best_step: int | None
  evaluations: tuple[Evaluation, ...]


class History:
  """The evaluations of a run.

  Args:
    rule: what is the best.
    model_dir: of the run.
    last_step: evaluations of later steps, left by a run that went further than
      its last checkpoint or was killed in the middle of one, are forgotten.
    is_writer: whether this process writes the file.

  Raises:
    DataError: the file is damaged.
  """

  def __init__(
    self,
    rule: BestCheckpoint,
    model_dir: pathlib.Path,
    last_step: int,
    is_writer: bool = True,
  ):
    self._rule = rule
    self._path = model_dir / FILE_NAME
    self._is_writer = is_writer
    self._evaluations: list[Evaluation] = []
    if self._path.exists():
      there = json_records.read_json(self._path, _File)
      if there.metric == rule.metric_name_to_monitor:
        self._evaluations = [
          x for x in there.evaluations if x.step <= last_step
        ]
    # A run may have been killed between saving and pinning.
    self.pin()

  @property
  def best(self) -> Evaluation | None:
    """The first of the best evaluations; None before the first one."""
    best = None
    for evaluation in self._evaluations:
      if evaluation.value is not None and self._rule.is_better(
        evaluation.value, None if best is None else best.value
      ):
        best = evaluation
    return best

  @property
  def is_over(self) -> bool:
    """Whether patience has run out."""
    if self._rule.patience is None:
      return False
    best = self.best
    since = [x for x in self._evaluations if best is None or x.step > best.step]
    return len(since) >= self._rule.patience

  def add(self, step: int, values: Mapping[str, float]) -> bool:
    """Notes the values of a step.

    Returns:
      Whether they are the best so far.

    Raises:
      ConfigError: the monitored metric is not among them.
    """
    name = self._rule.metric_name_to_monitor
    if name not in values:
      raise errors.unknown_name('metric_name_to_monitor', name, values)
    value = float(values[name])
    self._evaluations.append(
      Evaluation(step, value if math.isfinite(value) else None)
    )
    best = self.best
    if self._is_writer:
      json_records.write_json_atomically(
        self._path,
        _File(
          json_records.SCHEMA_VERSION,
          name,
          self._rule.metric_mode,
          None if best is None else best.step,
          tuple(self._evaluations),
        ),
      )
    return best is not None and best.step == step

  def pin(self) -> None:
    """Protects the best checkpoint, and no longer an earlier best one.

    T5X's file PINNED does it (`orbax_io.CheckpointStore`); one that a user
    has made stays.
    """
    best = self.best
    if best is None or not self._is_writer:
      return
    pinned = self._path.parent / f'checkpoint_{best.step}' / PINNED
    mark = f'best {self._rule.metric_name_to_monitor}\n'.encode()
    for other in self._path.parent.glob(f'checkpoint_*/{PINNED}'):
      if other != pinned and other.read_bytes() == mark:
        other.unlink()
    if pinned.parent.is_dir() and not pinned.exists():
      json_records.write_bytes_atomically(pinned, mark)

  def describe(self) -> str:
    """The best one, in words."""
    best = self.best
    if best is None:
      return f'no finite {self._rule.metric_name_to_monitor} so far'
    return (
      f'best {self._rule.metric_name_to_monitor} {best.value:.4f}'
      f' at step {best.step}'
    )
