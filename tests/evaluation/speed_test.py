"""Timing with a fake generator and a fake clock."""

import types

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.evaluation import speed


class FakeGenerator:
  """Makes 4 tokens per text, at 8 ms each if full and 2 ms if not.

  The first run of any threshold takes 100 s, as a compilation would, and every
  other run is disturbed.
  """

  def __init__(self, clock):
    self.clock, self.calls, self.seen = clock, 0, []

  def encode(self, texts):
    return np.ones((len(texts), 6), np.int32)

  def generate_tokens(self, tokens, thresholds):
    (threshold,) = set(thresholds.tolist())
    batch = len(tokens)
    per_token = 8e-3 if threshold == 1.0 else 2e-3
    self.clock.now += per_token * 4 * batch
    if threshold not in self.seen:
      self.clock.now += 100.0
    self.calls += 1
    if self.calls % 3 == 0:
      self.clock.now += 5.0
    self.seen.append(threshold)
    used = np.zeros((batch, 10), np.int32)
    used[:, :4] = 1
    return types.SimpleNamespace(num_layers_used=used)


@pytest.fixture
def generator(monkeypatch):
  clock = types.SimpleNamespace(now=0.0)
  monkeypatch.setattr(speed.time, 'perf_counter', lambda: clock.now)
  return FakeGenerator(clock)


@pytest.mark.parametrize('batch_size', [1, 2])
def test_counts_the_fastest_runs_after_compilation(generator, batch_size):
  timings = speed.measure(
    generator, ['a', 'b', 'c', 'd'], threshold=0.5, batch_size=batch_size
  )
  assert timings.full.ms_per_token == pytest.approx(8.0)
  assert timings.calibrated.ms_per_token == pytest.approx(2.0)
  assert timings.speedup == pytest.approx(4.0)
  assert timings.full.tokens_timed == timings.calibrated.tokens_timed == 16
  assert timings.batch_size == batch_size


def test_systems_alternate(generator):
  speed.measure(generator, ['a', 'b'], threshold=0.5)
  assert generator.seen[2:] == [1.0, 0.5] * 6


def test_leaves_out_what_fills_no_batch(generator):
  timings = speed.measure(generator, ['a'] * 5, threshold=0.5, batch_size=2)
  assert timings.full.tokens_timed == 16


def test_refuses_fewer_texts_than_a_batch(generator):
  with pytest.raises(errors.DataError, match='at least 3 texts'):
    speed.measure(generator, ['a'] * 2, threshold=0.5, batch_size=3)
