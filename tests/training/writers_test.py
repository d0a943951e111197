"""Metric files and the progress display."""

import io
import json
import sys

import pytest

from calm_jax.training import writers


@pytest.fixture
def no_tensorflow(monkeypatch):
  """Makes clu's writers, which import TensorFlow, fail to import."""
  monkeypatch.setitem(sys.modules, 'clu.metric_writers', None)


def entries(directory):
  lines = (directory / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_metrics_are_written_without_tensorflow(tmp_path, no_tensorflow):
  log = writers.MetricLog(tmp_path / 'train')
  log.write(5, {'loss': 1.5})
  log.write(10, {'loss': 1.25, 'accuracy': 0.5})
  log.close()
  assert entries(tmp_path / 'train') == [
    {'step': 5, 'loss': 1.5},
    {'step': 10, 'loss': 1.25, 'accuracy': 0.5},
  ]


def test_resuming_drops_entries_that_will_be_written_again(
  tmp_path, no_tensorflow
):
  log = writers.MetricLog(tmp_path)
  for step in (5, 10, 15):
    log.write(step, {'loss': float(step)})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 20, "lo')  # The process was killed here.
  resumed = writers.MetricLog(tmp_path, last_step=10)
  resumed.write(15, {'loss': 0.5})
  assert entries(tmp_path) == [
    {'step': 5, 'loss': 5.0},
    {'step': 10, 'loss': 10.0},
    {'step': 15, 'loss': 0.5},
  ]


def test_events_can_be_read_by_tensorboard(tmp_path):
  pytest.importorskip('tensorflow')
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  )
  from tensorboard.util import tensor_util

  log = writers.MetricLog(tmp_path)
  log.write(7, {'loss_per_layer/layer_1': 2.5})
  log.close()
  events = accumulator.EventAccumulator(str(tmp_path), size_guidance={})
  events.Reload()
  (event,) = events.Tensors('loss_per_layer/layer_1')
  assert event.step == 7
  assert tensor_util.make_ndarray(event.tensor_proto) == 2.5


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_progress_prints_plain_lines_to_a_file():
  stream = io.StringIO()
  progress = writers.Progress(10, 0, stream)
  progress.advance()
  progress.show(loss=1.0)
  progress.message('step 1')
  progress.close()
  assert stream.getvalue() == 'step 1\n'


def test_progress_shows_a_bar_on_a_terminal():
  stream = Terminal()
  progress = writers.Progress(10, 4, stream)
  progress.show(loss=1.2345, accuracy=0.5)
  for _ in range(6):
    progress.advance()
  progress.message('step 10')
  progress.close()
  assert '10/10' in stream.getvalue()
  assert 'loss=1.23' in stream.getvalue()
  assert 'step 10\n' in stream.getvalue()
