"""Timing with a fake generator and a fake clock."""

import types

import numpy as np
import pytest

from calm_jax import errors, evaluation
from calm_jax.evaluation import speed, timing
from calm_jax.records import contracts


class FakeGenerator:
  """Makes 4 tokens per text, at 8 ms each if full and 2 ms if not.

  The first run of any threshold takes 100 s, as a compilation would, and every
  seventh run is disturbed. `lengths` gives each text another number of tokens.
  """

  def __init__(self, clock, lengths=None):
    self.clock, self.calls, self.seen = clock, 0, []
    self.lengths = lengths

  def encode(self, texts):
    tokens = np.ones((len(texts), 6), np.int32)
    tokens[:, 0] = 4 if self.lengths is None else self.lengths
    return tokens

  def request(self, tokens, thresholds):
    return tokens, thresholds

  def generate_tokens(self, request):
    tokens, thresholds = request
    (threshold,) = set(thresholds.tolist())
    lengths = tokens[:, 0]
    per_token = 8e-3 if threshold == 1.0 else 2e-3
    self.clock.now += per_token * lengths.sum() + 1e-3 * len(tokens)
    self._disturb(threshold)
    used = np.arange(10) < lengths[:, None]
    return types.SimpleNamespace(num_layers_used=used.astype(np.int32))

  def run_encoder(self, tokens):
    self.clock.now += 1e-3 * len(tokens)
    self._disturb('encoder')

  def _disturb(self, what):
    if what not in self.seen:
      self.clock.now += 100.0
    self.calls += 1
    if self.calls % 7 == 0:
      self.clock.now += 5.0
    self.seen.append(what)


@pytest.fixture
def clock(monkeypatch):
  clock = types.SimpleNamespace(now=0.0)
  monkeypatch.setattr(speed.time, 'perf_counter', lambda: clock.now)
  return clock


@pytest.fixture
def generator(clock):
  return FakeGenerator(clock)


@pytest.mark.parametrize('batch_size', [1, 2])
def test_median_runs_after_compilation(generator, batch_size):
  timings = speed.measure(
    generator,
    ['a', 'b', 'c', 'd'],
    threshold=0.5,
    batch_size=batch_size,
    run_encoder=generator.run_encoder,
  )
  # 4 tokens of 8 and 2 ms, and 1 ms of encoder.
  assert timings.full.ms_per_token == pytest.approx(33 / 4)
  assert timings.calibrated.ms_per_token == pytest.approx(9 / 4)
  assert timings.speedup == pytest.approx(33 / 9)
  assert timings.full.speed.decoder.mean == pytest.approx(8.0)
  assert timings.calibrated.speed.decoder.mean == pytest.approx(2.0)
  assert timings.decoder_speedup == pytest.approx(4.0)
  assert timings.full.tokens_timed == timings.calibrated.tokens_timed == 16
  assert timings.batch_size == batch_size
  assert timings.full.speed.num_batches == 4 // batch_size
  assert timings.full.speed.repeats == 5


def test_quartiles_are_over_the_texts(clock):
  """The encoder weighs more where there are fewer tokens."""
  generator = FakeGenerator(clock, lengths=[1, 2, 4, 5])
  timings = speed.measure(
    generator, ['a'] * 4, threshold=0.5, run_encoder=generator.run_encoder
  )
  each = np.array([2 + 1 / n for n in (1, 2, 4, 5)])
  spread = timings.calibrated.speed.with_encoder
  assert [
    spread.lower_quartile,
    spread.median,
    spread.upper_quartile,
  ] == pytest.approx(np.quantile(each, (0.25, 0.5, 0.75)).tolist())
  # All time over all tokens, which is no mean of the texts' means.
  assert spread.mean == pytest.approx((2 * 12 + 4) / 12)
  assert spread.mean != pytest.approx(each.mean())
  assert timings.full.speed.decoder.lower_quartile == pytest.approx(8.0)
  assert timings.full.speed.decoder.upper_quartile == pytest.approx(8.0)


def test_without_an_encoder_there_is_one_number(generator):
  timings = speed.measure(generator, ['a'] * 3, threshold=0.5)
  assert timings.speedup == pytest.approx(33 / 9)
  assert timings.full.speed.decoder is None
  assert timings.decoder_speedup is None


def test_systems_alternate_after_the_warm_up(generator):
  speed.measure(
    generator,
    ['a', 'b', 'c'],
    threshold=0.5,
    repeats=2,
    warm_up=1,
    run_encoder=generator.run_encoder,
  )
  assert generator.seen == [1.0, 0.5, 'encoder'] * (1 + 3 * 2)


def test_leaves_out_what_fills_no_batch(generator):
  timings = speed.measure(generator, ['a'] * 5, threshold=0.5, batch_size=2)
  assert timings.full.tokens_timed == 16


def test_refuses_fewer_texts_than_a_batch(generator):
  with pytest.raises(errors.DataError, match='at least 3 texts'):
    speed.measure(generator, ['a'] * 2, threshold=0.5, batch_size=3)


def test_names_the_machine_and_the_device(generator):
  timings = speed.measure(generator, ['a'], threshold=0.5, device='TPU v4')
  assert 'cores' in timings.machine and timings.machine.endswith(', TPU v4')


def test_time_that_noise_has_eaten_is_not_reported(clock):
  generator = FakeGenerator(clock)

  def run_encoder(tokens):
    clock.now += 1.0  # longer than encoder and decoder together

  timings = speed.measure(
    generator, ['a'] * 3, threshold=0.5, run_encoder=run_encoder
  )
  assert timings.full.speed.decoder is None
  assert timings.decoder_speedup is None and timings.speedup > 1


def test_timings_survive_json(generator, tmp_path):
  path = tmp_path / 'timings.json'
  timings = speed.measure(
    generator, ['a'] * 3, threshold=0.5, run_encoder=generator.run_encoder
  )
  contracts.write_json_atomically(path, timings)
  assert contracts.read_json(path, evaluation.Timings) == timings


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'mean': 0.0}, 'must be positive'),
    ({'mean': float('nan')}, 'must be positive'),
    ({'lower_quartile': 3.0}, 'ascend'),
    ({'lower_quartile': -1.0}, 'positive'),
    ({'upper_quartile': float('inf')}, 'ascend'),
  ],
)
def test_times_that_cannot_be(fields, message):
  values = {
    'mean': 2.0,
    'lower_quartile': 1.0,
    'median': 2.0,
    'upper_quartile': 3.0,
  }
  contracts.Milliseconds(**values)
  with pytest.raises(errors.DataError, match=message):
    contracts.Milliseconds(**{**values, **fields})


def test_summaries_of_times():
  got = timing.milliseconds(np.array([1.0, 3.0]), np.array([1000, 1000]))
  assert (got.mean, got.median) == (2.0, 2.0)
  assert timing.milliseconds(np.array([0.0, 1.0]), np.array([1, 1])) is None
