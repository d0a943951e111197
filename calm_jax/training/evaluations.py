"""An evaluation during training: scores, outputs, the choice of the best.

    params --> teacher-forced scores --> training_eval/
           --> decoded outputs       --> inference_eval/
           --> best.History, which keeps a checkpoint or ends the training
           --> evaluated_steps.json, once all of these are written

A kill between two of the files leaves a step that the last one lacks: the next
run drops what there is of it and evaluates once more.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from calm_jax import errors
from calm_jax.records import json_records
from calm_jax.training import best, infer_eval, logs

FILE_NAME = 'evaluated_steps.json'


@dataclasses.dataclass(frozen=True)
class _File(json_records.Record):
  schema_version: int
  steps: tuple[int, ...]


class EvaluatedSteps:
  """The steps whose evaluation was written to the end.

  Args:
    model_dir: of the run.
    start_step: later steps, left by a run that went further than its last
      checkpoint, are forgotten.
    is_writer: whether this process writes the file.

  Raises:
    DataError: the file is damaged.
  """

  def __init__(
    self, model_dir: pathlib.Path, start_step: int, is_writer: bool = True
  ):
    self._path = model_dir / FILE_NAME
    self._is_writer = is_writer
    self._steps: tuple[int, ...] = ()
    if self._path.exists():
      there = json_records.read_json(self._path, _File)
      self._steps = tuple(x for x in there.steps if x <= start_step)

  def __contains__(self, step: int) -> bool:
    return step in self._steps

  def add(self, step: int) -> None:
    """Notes that all files of a step's evaluation are written."""
    self._steps += (step,)
    if self._is_writer:
      json_records.write_json_atomically(
        self._path, _File(json_records.SCHEMA_VERSION, self._steps)
      )


@dataclasses.dataclass(frozen=True)
class Evaluations:
  """The evaluations of a run.

  Attributes:
    score: params -> metrics of the teacher-forced targets, or None.
    infer: decodes, or None.
    history: of the monitored metric, or None.
    logs: of the run.
    evaluated: the steps that are done.
    is_missed: whether that of the first step is to be made up for.
  """

  score: Callable[[Any], dict[str, float]] | None
  infer: infer_eval.Evaluate | None
  history: best.History | None
  logs: logs.RunLogs
  evaluated: EvaluatedSteps
  is_missed: bool

  def __bool__(self) -> bool:
    return self.score is not None or self.infer is not None

  @property
  def is_over(self) -> bool:
    """Whether training is to stop early."""
    return self.history is not None and self.history.is_over

  def run(self, step: int, params: Any) -> bool:
    """Evaluates; returns whether the monitored metric is the best so far.

    Raises:
      ConfigError: the monitored metric is not measured.
    """
    values = {}
    if self.score is not None:
      scores = self.score(params)
      self.logs.write_evaluation(step, scores)
      values |= {f'{logs.TRAINING_EVAL}/{k}': v for k, v in scores.items()}
    if self.infer is not None:
      for task, found in self.infer(step, params).items():
        self.logs.show_metrics(step, task, found)
        prefix = f'{infer_eval.FOLDER}/{task}'
        values |= {f'{prefix}/{k}': v for k, v in found.items()}
    is_best = self.history is not None and self.history.add(step, values)
    # The last of the files.
    self.evaluated.add(step)
    if self.history is not None:
      self.logs.progress.message(f'step {step}  {self.history.describe()}')
    return is_best


def open_evaluations(
  model_dir: pathlib.Path,
  start_step: int,
  *,
  is_due: bool,
  score: Callable[[Any], dict[str, float]] | None,
  infer_evaluation: infer_eval.InferEvaluation | None,
  best_checkpoint: best.BestCheckpoint,
  run_logs: logs.RunLogs,
  is_writer: bool,
) -> Evaluations:
  """The evaluations of a run, without what another left unfinished.

  Args:
    model_dir: of the run.
    start_step: the step that it begins with.
    is_due: whether this step is one of those to be evaluated.
    score: see `Evaluations`.
    infer_evaluation: what is decoded, or None.
    best_checkpoint: what makes a checkpoint the best.
    run_logs: see `Evaluations.logs`.
    is_writer: whether this process writes.

  Raises:
    ConfigError: the metric of best_checkpoint is of no evaluation of the run,
      or there is nothing to decode.
    DataError: a file of an earlier run is damaged.
  """
  folders = [logs.TRAINING_EVAL] if score is not None else []
  folders += [infer_eval.FOLDER] if infer_evaluation is not None else []
  _check_monitored(best_checkpoint.metric_name_to_monitor, folders)
  evaluated = EvaluatedSteps(model_dir, start_step, is_writer)
  is_missed = bool(folders) and is_due and start_step not in evaluated
  last_step = start_step - 1 if is_missed else start_step
  run_logs.drop_evaluations_after(last_step)
  infer, history = None, None
  if infer_evaluation is not None:
    infer = infer_evaluation.open(model_dir, last_step, is_writer=is_writer)
  if best_checkpoint.metric_name_to_monitor is not None:
    history = best.History(best_checkpoint, model_dir, last_step, is_writer)
  return Evaluations(score, infer, history, run_logs, evaluated, is_missed)


def _check_monitored(name: str | None, folders: Sequence[str]) -> None:
  if name is None or name.startswith(tuple(f'{x}/' for x in folders)):
    return
  written = ' or '.join(f"'{folder}/'" for folder in folders)
  raise errors.ConfigError(
    'metric_name_to_monitor (BEST_CHECKPOINT_METRIC) must name a metric that'
    f' the run evaluates ({written or "none: it evaluates nothing"}), got'
    f' {name!r}. Validation batches give {logs.TRAINING_EVAL}/METRIC,'
    f' gin/runs/infer_eval.gin gives {infer_eval.FOLDER}/TASK/METRIC.'
  )
