"""Metrics that a training run writes and prints, and the sums behind them.

training.loop --sums, scores--> RunLogs --> train/, training_eval/, terminal
"""

import pathlib
import time

from calm_jax.training import metrics, objectives, writers

TRAIN = 'train'
TRAINING_EVAL = 'training_eval'


class RunLogs:
  """The outputs of a run, and the sums since the last log line.

  Args:
    model_dir: of the run.
    total_steps: of the whole run.
    start: the step that this run begins with.
    objective: names the metrics.
  """

  def __init__(
    self,
    model_dir: pathlib.Path,
    total_steps: int,
    start: int,
    objective: objectives.Objective,
  ):
    self._objective = objective
    self._start_time = time.monotonic()
    self._train = writers.MetricLog(model_dir / TRAIN, start)
    self._evaluation = writers.MetricLog(model_dir / TRAINING_EVAL, start)
    self.progress = writers.Progress(total_steps, start)
    self._total_steps = total_steps
    self._reset()

  def _reset(self):
    self._total: metrics.MetricSums | None = None
    self._window_start = time.monotonic()
    self._pauses: dict[str, float] = {}

  def _seconds(self) -> float:
    """Since the last line, without pauses."""
    passed = time.monotonic() - self._window_start
    return max(passed - sum(self._pauses.values()), 1e-9)

  def exclude(self, reason: str, seconds: float):
    """Counts compiling, evaluating or saving apart from the steps."""
    name = f'timing/{reason}_seconds'
    self._pauses[name] = self._pauses.get(name, 0.0) + seconds

  def add(self, sums: metrics.MetricSums):
    """Counts one finished step."""
    self._total = metrics.add(self._total, sums)
    self.progress.advance()

  def write(self, step_number: int):
    """Writes the means since the last call; nothing if no step came since."""
    if self._total is None:
      return
    values = self._objective.training_metrics(self._total, self._seconds())
    values |= self._pauses
    values['timing/uptime'] = time.monotonic() - self._start_time
    self._train.write(step_number, values)
    self.progress.show(loss=values['loss'])
    self._print_line(step_number, values)
    self._reset()

  def _print_line(self, step_number: int, values: dict[str, float]):
    rate = values['timing/steps_per_second']
    remaining = (self._total_steps - step_number) / rate
    self.progress.message(
      f'step {step_number}/{self._total_steps}'
      f'  loss {values["loss"]:.4f}'
      f'  {self._objective.training_line(values)}'
      f'  lr {values["learning_rate"]:.2e}'
      f'  {rate:.2f} steps/s'
      f'  {remaining / 60:.0f} min left'
    )

  def drop_evaluations_after(self, step_number: int):
    """Drops the lines of what is evaluated once more."""
    self._evaluation.drop_entries_after(step_number)

  def write_evaluation(self, step_number: int, values: dict[str, float]):
    """Writes the validation metrics and prints a line per kind."""
    self._evaluation.write(step_number, values)
    first, *others = self._objective.evaluation_lines(values)
    self.progress.message(f'step {step_number}  {first}')
    for line in others:
      self.progress.message(f'  {line}')

  def show_metrics(self, step_number: int, name: str, values: dict[str, float]):
    """Prints what was measured of a task's outputs."""
    numbers = '  '.join(f'{key} {x:.4g}' for key, x in values.items())
    self.progress.message(f'step {step_number}  {name}: {numbers}')

  def close(self):
    """Flushes everything."""
    self._train.close()
    self._evaluation.close()
    self.progress.close()


class NoLogs:
  """The logs of a process that leaves writing to another."""

  @property
  def progress(self):
    """Says nothing."""
    return self

  def _ignore(self, *args, **values):
    pass

  message = exclude = add = write = write_evaluation = close = _ignore
  show_metrics = drop_evaluations_after = _ignore
