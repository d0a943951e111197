"""Where training metrics go: TensorBoard, a JSON-lines file, and the terminal.

Only the TensorBoard writer needs TensorFlow, which may be missing.
"""

import json
import math
import os
import pathlib
import sys
from collections.abc import Mapping

import tqdm
from absl import logging

from calm_jax.records import json_records

METRICS = 'metrics.jsonl'


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
    last_step: entries of later steps, left by a run that went further than its
      last checkpoint, are dropped.
  """

  def __init__(self, directory: str | os.PathLike, last_step: int = 0):
    self._directory = pathlib.Path(directory)
    self._directory.mkdir(parents=True, exist_ok=True)
    self._path = self._directory / METRICS
    self.drop_entries_after(last_step)
    self._events = summary_writer(self._directory)

  def drop_entries_after(self, step: int):
    """Keeps the lines up to a step; events stay, as TensorBoard reads them."""
    drop_entries_after(self._path, step)

  def write(self, step: int, values: Mapping[str, float]):
    """Appends one entry; null stands for a number that is not finite."""
    finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
    entry = json.dumps({'step': step, **finite}, allow_nan=False)
    with self._path.open('a', encoding='utf-8') as file:
      file.write(entry + '\n')
    if self._events is not None:
      self._events.write_scalars(step, dict(values))

  def close(self):
    """Flushes the events."""
    if self._events is not None:
      self._events.flush()
      self._events.close()


def drop_entries_after(path: pathlib.Path, step: int) -> None:
  """Keeps the lines of a JSONL file up to a step, and whole lines only."""
  if not path.exists():
    return
  lines = path.read_bytes().split(b'\n')
  kept = [line + b'\n' for line in lines if _step_of(line) <= step]
  json_records.write_parts_atomically(path, kept)


def _step_of(line: bytes) -> float:
  try:
    return float(json.loads(line)['step'])
  except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
    # The torn last line of a run that was killed, or a damaged one.
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
    """Shows the latest numbers next to the bar."""
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
