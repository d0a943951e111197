"""Evaluation of a small dump, every number by a second route."""

import dataclasses
import statistics

import numpy as np
import pytest

from calm_jax import calibration, contracts, errors, evaluation, text_metrics
from calm_jax.calibration import p_values
from calm_jax.dump import writer

GRID, N, T, L = (1.0, 0.6, 0.3), 40, 6, 4
WORDS = 'one two three four five six'.split()
HEADER = contracts.Manifest(
  task='toy',
  split='test',
  metric='token_f1',
  thresholds=GRID,
  num_decoder_layers=L,
  max_decode_length=T,
  measure='Gap()',
  threshold_schedule='Constant()',
  model_digest='model-1',
  config_digest='config-1',
  data_digest='data',
)


def make_dump(seed, prefix, grid=GRID, size=N):
  """Token k is WORDS[k - 1]; 1 is EOS. Low thresholds replace more words."""
  random = np.random.default_rng(seed)
  G = len(grid)
  tokens = np.zeros((size, G, T), np.int32)
  used = np.zeros((size, G, T), np.int8)
  for n in range(size):
    length = random.integers(2, T)
    full = random.integers(2, 7, length)
    for g, threshold in enumerate(grid):
      changed = random.random(length) < 0.3 * (1 - threshold)
      row = np.where(changed, 8 - full, full)
      tokens[n, g, : length + 1] = [*row, 1]
      low = L if threshold == 1.0 else 1
      used[n, g, : length + 1] = random.integers(low, L + 1, length + 1)
  texts = np.array(
    [[' '.join(pieces(row[row > 1])) for row in r] for r in tokens]
  )
  return contracts.Dump(
    example_ids=np.array([f'{prefix}-{n:03}' for n in range(size)]),
    sources=np.array([text.upper() for text in texts[:, 0]]),
    references=np.array([f'{text} six' for text in texts[:, 0]]),
    predictions=texts,
    tokens=tokens,
    num_layers_used=used,
    confidences=np.where(used > 0, 0.5, 0).astype(np.float32),
    trace_confidences=np.zeros((size, T, L), np.float32),
    trace_tokens=np.zeros((size, T, L), np.int32),
  )


def pieces(ids):
  return [WORDS[i - 1] for i in ids]


def make_calibration(tolerance=0.3, consistency='textual', **header):
  header = dataclasses.replace(HEADER, split='calibration', **header)
  data = make_dump(1, 'calibration', header.thresholds, 200)
  return calibration.calibrate_dump(
    (header, data), consistency, tolerance, 0.05
  )


def make_timings(threshold):
  return evaluation.Timings(
    full=evaluation.Timing(1.0, 12.0, 100),
    calibrated=evaluation.Timing(threshold, 5.0, 99),
    batch_size=1,
    machine='2 cores',
  )


def evaluate(data=None, header=HEADER, calibrated=None, **kwargs):
  calibrated = calibrated or make_calibration()
  kwargs.setdefault('timings', make_timings(calibrated.threshold))
  return evaluation.evaluate(
    (header, data or make_dump(2, 'test', header.thresholds)),
    calibrated,
    pieces=kwargs.pop('pieces', pieces),
    **kwargs,
  )


def test_numbers_by_plain_python():
  data, calibrated = make_dump(2, 'test'), make_calibration()
  assert calibrated.threshold == 0.3, 'the fixture certifies the whole grid'
  result = evaluate(data, calibrated=calibrated)
  losses, scores, layers, histogram = [], [], [], [0] * L
  for n in range(N):
    text, full = data.predictions[n, 2], data.predictions[n, 0]
    losses.append(1 - text_metrics.token_f1(text, full))
    scores.append(text_metrics.token_f1(text, data.references[n]))
    for count in data.num_layers_used[n, 2]:
      if count:
        layers.append(int(count))
        histogram[count - 1] += 1
  row = result.calibrated
  assert row.mean_loss == pytest.approx(statistics.fmean(losses)) and losses
  assert row.mean_metric == pytest.approx(statistics.fmean(scores))
  assert row.mean_layers == pytest.approx(statistics.fmean(layers))
  assert result.layer_histogram == tuple(histogram)
  # The bound is where the calibration's own test turns.
  p_value = p_values.HoeffdingBentkus()
  assert p_value(np.array(losses), row.loss_upper_95 + 1e-6) < 0.05
  assert p_value(np.array(losses), row.loss_upper_95 - 1e-6) > 0.05
  assert (row.ms_per_token, row.tokens_timed) == (5.0, 99)
  assert result.speedup == pytest.approx(2.4)


def test_full_model_row_and_curve():
  data = make_dump(2, 'test')
  result = evaluate(data)
  assert result.full.threshold == 1.0
  assert result.full.mean_loss == result.full.loss_upper_95 == 0.0
  assert result.full.mean_layers == L
  assert [point.threshold for point in result.curve] == list(GRID)
  for name in ('threshold', 'mean_loss', 'mean_metric', 'mean_layers'):
    assert getattr(result.curve[0], name) == getattr(result.full, name)
    assert getattr(result.curve[2], name) == getattr(result.calibrated, name)
  assert result.curve[1].mean_layers == pytest.approx(data.mean_layers()[1])


def test_risk_consistency_is_measured_as_calibrated():
  data = make_dump(2, 'test')
  result = evaluate(data, calibrated=make_calibration(consistency='risk'))
  score = text_metrics.token_f1
  expected = [
    max(0, score(full, reference) - score(early, reference))
    for (full, _, early), reference in zip(
      data.predictions, data.references, strict=True
    )
  ]
  assert result.consistency == 'risk'
  assert result.calibrated.mean_loss == pytest.approx(np.mean(expected))


def test_the_metric_is_the_calibration_s():
  header = dataclasses.replace(HEADER, split='calibration')
  calibrated = calibration.calibrate_dump(
    (header, make_dump(1, 'calibration', size=200)),
    'textual',
    0.3,
    0.05,
    metric='exact_match',
  )
  result = evaluate(calibrated=calibrated)
  assert result.metric == 'exact_match'
  assert result.full.mean_metric == 0.0  # each reference has one word more


def test_baselines():
  data = make_dump(2, 'test')
  copied = [text.removesuffix(' six') for text in data.references]
  result = evaluate(data, baselines={'copied': copied, 'empty': [''] * N})
  assert result.baselines['empty'] == 0.0
  expected = [
    text_metrics.token_f1(text, f'{text} six')
    for text in data.predictions[:, 0]
  ]
  assert result.baselines['copied'] == pytest.approx(np.mean(expected))
  with pytest.raises(errors.DataError, match="'copied'.*40 examples, got 39"):
    evaluate(data, baselines={'copied': copied[1:]})


def test_samples_are_spread_over_the_effort_and_do_not_depend_on_the_order():
  data = make_dump(2, 'test')
  samples = evaluate(data, num_samples=5).samples
  means = [statistics.fmean(sample.num_layers_used) for sample in samples]
  assert means == sorted(means) and len(samples) == 5
  every = sorted(
    statistics.fmean(int(x) for x in row if x)
    for row in data.num_layers_used[:, 2]
  )
  assert means == pytest.approx([every[4 + 8 * part] for part in range(5)])
  shuffled = np.random.default_rng(3).permutation(N)
  again = contracts.Dump(
    **{
      field.name: getattr(data, field.name)[shuffled]
      for field in dataclasses.fields(data)
    }
  )
  assert evaluate(again, num_samples=5).samples == samples


def test_a_sample_tells_one_example_whole():
  data = make_dump(2, 'test')
  rows = {name: row for row, name in enumerate(data.example_ids)}
  for sample in evaluate(data, num_samples=99).samples:
    row = rows[sample.example_id]
    assert ' '.join(sample.pieces[:-1]) == data.predictions[row, 2]
    assert sample.pieces[-1] == 'one', 'the piece of the end'
    used = data.num_layers_used[row, 2]
    assert sample.num_layers_used == tuple(used[used > 0])
    assert sample.full_prediction == data.predictions[row, 0]
    assert sample.source == data.sources[row]
    assert sample.reference == data.references[row]
  assert evaluate(data, num_samples=0).samples == ()


def test_nothing_certified():
  calibrated = make_calibration(tolerance=0.001)
  assert calibrated.threshold == 1.0
  result = evaluate(
    header=dataclasses.replace(HEADER, thresholds=(1.0,)), calibrated=calibrated
  )
  assert result.calibrated.threshold == 1.0
  assert result.calibrated.loss_upper_95 == 0.0
  assert result.layer_histogram[:-1] == (0,) * (L - 1)


def test_reads_a_dump_from_disk_and_the_result_survives_json(tmp_path):
  writer.write_dump(tmp_path / 'dump', HEADER, [make_dump(2, 'test')])
  calibrated = make_calibration()
  result = evaluation.evaluate(
    tmp_path / 'dump', calibrated, make_timings(0.3), pieces, num_samples=3
  )
  contracts.write_json_atomically(tmp_path / 'evaluation.json', result)
  again = contracts.read_json(
    tmp_path / 'evaluation.json', contracts.EvaluationResult
  )
  assert again == result


@pytest.mark.parametrize(
  'name', ['model_digest', 'config_digest', 'task', 'measure']
)
def test_refuses_another_system_and_names_both(name):
  other = make_calibration(**{name: 'another'})
  with pytest.raises(errors.DataError) as caught:
    evaluate(calibrated=other)
  for part in (name, "'another'", repr(getattr(HEADER, name))):
    assert part in str(caught.value)


def calibration_dump(*shared, size=200, **header):
  """The dump of `make_calibration`, with the ids `shared` among its ids."""
  header = dataclasses.replace(HEADER, split='calibration', **header)
  data = make_dump(1, 'calibration', header.thresholds, size)
  ids = [*shared, *data.example_ids[len(shared) :].tolist()]
  return header, dataclasses.replace(data, example_ids=np.array(ids))


def test_refuses_examples_that_were_calibrated_on():
  data = make_dump(2, 'test')
  seen = calibration_dump('test-003', 'test-007')
  with pytest.raises(errors.DataError, match=r"2 of the 40 .*'test-003'"):
    evaluate(data, calibration_dump=seen)
  assert evaluate(data, calibration_dump=calibration_dump()) == evaluate(data)


def test_refuses_the_same_split_unless_the_ids_are_known():
  header = dataclasses.replace(HEADER, split='calibration')
  with pytest.raises(errors.DataError, match="both of the split 'calibration'"):
    evaluate(header=header)
  evaluate(header=header, calibration_dump=calibration_dump())


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'size': 199}, 'num_examples 200, got one with 199'),
    ({'data_digest': 'b'}, "data_digest 'data', got one with 'b'"),
    ({'model_digest': 'b'}, "model_digest 'model-1', got one with 'b'"),
  ],
)
def test_refuses_ids_of_another_dump_than_the_calibrated_one(fields, message):
  """An unrelated dump proves nothing about what was calibrated on."""
  header = dataclasses.replace(HEADER, split='calibration')
  with pytest.raises(errors.DataError, match=message):
    evaluate(header=header, calibration_dump=calibration_dump(**fields))


def test_refuses_a_dump_or_timings_without_the_calibrated_threshold():
  header = dataclasses.replace(HEADER, thresholds=(1.0, 0.6))
  with pytest.raises(errors.DataError, match=r'at 1\.0 and 0\.3'):
    evaluate(header=header)
  with pytest.raises(errors.DataError, match=r'threshold 0\.3, got 0\.6'):
    evaluate(timings=make_timings(0.6))


def test_refuses_pieces_of_another_number():
  with pytest.raises(errors.DataError, match='one piece for each'):
    evaluate(pieces=lambda ids: ['x'])


@pytest.mark.parametrize(
  'fields',
  [
    {'full': evaluation.Timing(0.5, 1.0, 1)},
    {'batch_size': 0},
  ],
)
def test_timings_refuse_what_cannot_be(fields):
  with pytest.raises(errors.DataError):
    dataclasses.replace(make_timings(0.3), **fields)


def test_timing_survives_json(tmp_path):
  path = tmp_path / 'timings.json'
  contracts.write_json_atomically(path, make_timings(0.3))
  assert contracts.read_json(path, evaluation.Timings) == make_timings(0.3)
  for wrong in (0.0, -1.0, float('nan'), float('inf')):
    with pytest.raises(errors.DataError, match='ms_per_token'):
      evaluation.Timing(1.0, wrong, 1)
  with pytest.raises(errors.DataError, match='tokens_timed'):
    evaluation.Timing(1.0, 1.0, 0)
