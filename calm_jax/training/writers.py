"""Where training metrics go: TensorBoard, a JSON-lines file, and the terminal.

Only the TensorBoard writer needs TensorFlow, which may be missing.
"""

import json
import os
import pathlib
import sys
from collections.abc import Mapping

import tqdm
from absl import logging


def summary_writer(directory: pathlib.Path):
  """clu's TensorBoard writer, or None where TensorFlow is not installed."""
  try:
    from clu import metric_writers
  except ImportError as error:
    logging.warning(
      'No TensorBoard events: %s; metrics go to metrics.jsonl only.', error
    )
    return None
  # One tag per scalar, unlike clu's hyperparameters and images.
  return metric_writers.SummaryWriter(os.fspath(directory))


class MetricLog:
  """Writes {name: number} under `directory`, as events and as JSON lines.

  Args:
    directory: created where missing.
    start_step: entries of later steps, left by a run that went further than its
      last checkpoint, are dropped.
  """

  def __init__(self, directory: str | os.PathLike, start_step: int = 0):
    self._directory = pathlib.Path(directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    self._path = self._directory / 'metrics.jsonl'
    self._drop_entries_after(start_step)
    self._events = summary_writer(self._directory)

  def _drop_entries_after(self, step: int):
    if not self._path.exists():
      return
    lines = self._path.read_text(encoding='utf-8').splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    temporary = self._path.with_suffix('.jsonl.tmp')
    temporary.write_text(''.join(f'{line}\n' for line in kept), 'utf-8')
    temporary.replace(self._path)

  def write(self, step: int, values: Mapping[str, float]):
    """Appends one entry."""
    with self._path.open('a', encoding='utf-8') as file:
      file.write(json.dumps({'step': step, **values}) + '\n')
    if self._events is not None:
      self._events.write_scalars(step, dict(values))

  def close(self):
    """Flushes the events."""
    if self._events is not None:
      self._events.flush()
      self._events.close()


def _step_of(line: str) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):
    # The torn last line of a run that was killed.
    return float('inf')


class Progress:
  """A progress bar on a terminal; plain lines, from `message`, elsewhere."""

  def __init__(self, total_steps: int, start_step: int, stream=None):
    stream = stream or sys.stdout
    self._stream = stream
    self._bar = tqdm.tqdm(
      total=total_steps,
      initial=start_step,
      unit='step',
      file=stream,
      disable=not stream.isatty(),
      dynamic_ncols=True,
    )

  def advance(self):
    """One step is done."""
    self._bar.update(1)

  def show(self, **values: float):
    """Shows the latest numbers beside the bar."""
    self._bar.set_postfix(
      {name: f'{value:.3g}' for name, value in values.items()}, refresh=False
    )

  def message(self, text: str):
    """Prints a line, above the bar if there is one."""
    if self._bar.disable:
      print(text, file=self._stream, flush=True)
    else:
      self._bar.write(text, file=self._stream)

  def close(self):
    """Leaves the bar as it stands."""
    self._bar.close()
