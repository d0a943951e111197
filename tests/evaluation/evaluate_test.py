"""Evaluation of a small dump, every number by a second route."""

import dataclasses
import statistics

import numpy as np
import pytest
from testing import dumps

from calm_jax import calibration, errors, evaluation
from calm_jax.calibration import betting
from calm_jax.decode import request as request_lib
from calm_jax.evaluation import (
  confidence_cost,
  flops,
  network_sizes,
)
from calm_jax.metrics import text_metrics
from calm_jax.records import contracts, dump_arrays

GRID, N, T, L = (1.0, 0.6, 0.3), 40, 6, 4
WORDS = 'one two three four five six'.split()
SIZES = network_sizes.NetworkSizes(
  emb_dim=8,
  num_heads=2,
  head_dim=4,
  mlp_dim=16,
  num_mlp_inputs=2,
  num_decoder_layers=L,
  vocab_size=50,
)
HEADER = dumps.make_manifest(
  task='toy',
  split='test',
  metric='token_f1',
  thresholds=GRID,
  max_decode_length=T,
  **{
    name: value
    for name, value in dataclasses.asdict(SIZES).items()
    if name in dumps.NETWORK
  },
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
  header = dumps.replaced(HEADER, split='calibration', **header)
  data = make_dump(1, 'calibration', header.thresholds, 200)
  return calibration.calibrate_dump(
    (header, data), consistency, tolerance, 0.05
  )


def make_speed(mean):
  return contracts.Speed(
    with_encoder=contracts.Milliseconds(
      mean=mean, lower_quartile=mean, median=mean, upper_quartile=mean
    ),
    decoder=contracts.Milliseconds(
      mean=mean - 2, lower_quartile=1.0, median=2.0, upper_quartile=3.0
    ),
    num_batches=10,
    repeats=5,
  )


def make_timings(threshold):
  return evaluation.Timings(
    full=evaluation.Timing(1.0, make_speed(12.0), 100),
    calibrated=evaluation.Timing(threshold, make_speed(5.0), 99),
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
  p_value = betting.Betting(level=0.05)
  assert p_value(np.array(losses), row.loss_upper_95 + 1e-6) < 0.05
  assert p_value(np.array(losses), row.loss_upper_95 - 1e-6) > 0.05
  assert (row.ms_per_token, row.tokens_timed) == (5.0, 99)
  assert row.speed == make_speed(5.0)
  assert result.speedup == pytest.approx(2.4)
  assert result.decoder_speedup == pytest.approx(10 / 3)


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
    **{name: array[shuffled] for name, array in data.arrays().items()}
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
  assert result.example_losses == (), 'the full model loses nothing'


def test_reads_a_dump_from_disk_and_the_result_survives_json(tmp_path):
  dumps.write_dump(tmp_path / 'dump', HEADER, [make_dump(2, 'test')])
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
  ('name', 'another'),
  [
    ('params_digest', 'another'),
    ('vocabulary_digest', 'another'),
    ('task', 'another'),
    ('measure', dumps.choice('Patience')),
    ('output_length', dumps.choice('ProportionalLength', ratio=2.0, extra=1)),
    ('inputs_length', 7),
  ],
)
def test_refuses_another_system_and_names_both(name, another):
  other = make_calibration(**{name: another})
  with pytest.raises(errors.DataError) as caught:
    evaluate(calibrated=other)
  holder = HEADER if name == 'task' else HEADER.model
  for part in (name, repr(another), repr(getattr(holder, name))):
    assert part in str(caught.value)


def calibration_dump(*shared, size=200, **header):
  """The dump of `make_calibration`, with the ids `shared` among its ids."""
  header = dumps.replaced(HEADER, split='calibration', **header)
  data = make_dump(1, 'calibration', header.thresholds, size)
  ids = [*shared, *data.example_ids[len(shared) :].tolist()]
  return header, dataclasses.replace(data, example_ids=np.array(ids))


def test_fault_18_refuses_examples_that_were_calibrated_on():
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
    ({'data_digest': 'b'}, "data_digest 'd', got one with 'b'"),
    ({'params_digest': 'b'}, "params_digest 'm', got one with 'b'"),
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
    {'full': evaluation.Timing(0.5, make_speed(3.0), 1)},
    {'batch_size': 0},
  ],
)
def test_timings_refuse_what_cannot_be(fields):
  with pytest.raises(errors.DataError):
    dataclasses.replace(make_timings(0.3), **fields)


def test_timing_needs_tokens():
  with pytest.raises(errors.DataError, match='tokens_timed'):
    evaluation.Timing(1.0, make_speed(3.0), 0)


def test_outputs_by_plain_python():
  """One text that equals its reference, and loops in both systems."""
  data = make_dump(2, 'test')
  data.references[:4] = data.predictions[:4, 2]
  data.tokens[10, 0][data.tokens[10, 0] == 1] = 2
  data.tokens[11, 2][data.tokens[11, 2] == 1] = 2
  data.tokens[12:14][data.tokens[12:14] == 1] = 2
  result = evaluate(data)
  full, early = result.full.outputs, result.calibrated.outputs
  assert early.exact_match == 4 / N
  assert full.exact_match == pytest.approx(
    sum(data.predictions[:, 0] == data.references) / N
  )
  assert full.endless == early.endless == pytest.approx(3 / N)
  assert (full.num_ended, early.num_ended) == (N - 3, N - 4)
  rows = [row for row in range(N) if row not in (10, 11, 12, 13)]
  texts = [(data.predictions[row, 2], data.references[row]) for row in rows]
  assert early.mean_metric_ended == pytest.approx(
    statistics.fmean(text_metrics.token_f1(*pair) for pair in texts)
  )
  losses = [
    1 - text_metrics.token_f1(*data.predictions[row, [2, 0]]) for row in rows
  ]
  assert early.mean_loss_ended == pytest.approx(statistics.fmean(losses))
  assert full.mean_loss_ended == 0.0


def test_outputs_that_all_loop_have_no_mean():
  data = make_dump(2, 'test')
  data.tokens[:, 2][data.tokens[:, 2] == 1] = 2
  outputs = evaluate(data).calibrated.outputs
  assert outputs.endless == 1.0 and outputs.num_ended == 0
  assert outputs.mean_metric_ended is outputs.mean_loss_ended is None


def test_the_end_of_a_text_is_the_models_s():
  assert dump_arrays.EOS_ID == request_lib.EOS_ID


def test_example_losses_are_the_greatest():
  data = make_dump(2, 'test')
  result = evaluate(data, num_losses=7)
  listed = result.example_losses
  every = {
    str(name): 1 - text_metrics.token_f1(early, full)
    for name, (full, _, early) in zip(
      data.example_ids, data.predictions, strict=True
    )
  }
  expected = sorted(every, key=lambda name: (-every[name], name))[:7]
  assert [example.example_id for example in listed] == expected
  rows = {name: row for row, name in enumerate(data.example_ids)}
  for example in listed:
    row = rows[example.example_id]
    used = data.num_layers_used[row, 2]
    assert example.loss == pytest.approx(every[example.example_id])
    assert example.num_tokens == (used > 0).sum()
    assert example.mean_layers == pytest.approx(used[used > 0].mean())
    assert example.metric == pytest.approx(
      text_metrics.token_f1(data.predictions[row, 2], data.references[row])
    )
    assert example.prediction == data.predictions[row, 2]
    assert example.full_prediction == data.predictions[row, 0]
    assert example.source == data.sources[row]
    assert example.reference == data.references[row]
  assert len(evaluate(data).example_losses) == N


def test_operations_are_counted_where_sizes_and_lengths_are_known():
  data, lengths = make_dump(2, 'test'), np.arange(N) + 3
  result = evaluate(data, source_lengths=lengths)
  used = data.num_layers_used
  full = flops.flops_per_token(SIZES, used[:, 0], lengths)
  early = flops.flops_per_token(
    SIZES, used[:, 2], lengths, confidence_cost.WholeSoftmax()
  )
  assert (result.full.flops, result.calibrated.flops) == (full, early)
  assert result.flops_reduction == full.total / early.total
  assert result.flops_reduction_without_output_embedding == (
    full.without_output_embedding / early.without_output_embedding
  )
  with pytest.raises(errors.DataError, match='each of the 40 examples'):
    evaluate(data, source_lengths=lengths[1:])


MY_NETWORK = dumps.choice('mine.Network', num_decoder_layers=L)


@pytest.mark.parametrize(
  ('fields', 'lengths'), [({'network': MY_NETWORK}, True), ({}, False)]
)
def test_operations_are_left_out_where_something_is_unknown(fields, lengths):
  header = dumps.replaced(HEADER, **fields)
  result = evaluate(
    header=header,
    calibrated=make_calibration(**fields),
    source_lengths=np.ones(N) if lengths else None,
  )
  assert result.full.flops is result.calibrated.flops is None
  assert result.flops_reduction is None


def test_a_measure_of_unknown_cost_leaves_the_full_model_s_operations():
  mine = dumps.choice('mine.Mine')
  result = evaluate(
    header=dumps.replaced(HEADER, measure=mine),
    calibrated=make_calibration(measure=mine),
    source_lengths=np.ones(N),
  )
  assert result.full.flops.total > 0 and result.calibrated.flops is None
  assert result.flops_reduction is None


def test_a_risk_difference_may_be_negative():
  data = make_dump(2, 'test')
  data.references[:] = data.predictions[:, 2]  # Leaving early is better.
  result = evaluate(
    data, calibrated=make_calibration(consistency='risk_difference')
  )
  row = result.calibrated
  assert row.threshold < 1 and row.mean_loss < 0
  assert row.mean_loss < row.loss_upper_95 <= 1
  assert result.example_losses[-1].loss < 0


def own_metric(prediction, reference):
  return float(prediction[:1] == reference[:1])


def test_a_metric_of_one_s_own_is_imported_at_the_user_s_word_only():
  name = f'{__name__}:own_metric'
  calibrated = dataclasses.replace(make_calibration(), metric=name)
  with pytest.raises(errors.ConfigError, match='once more'):
    evaluate(calibrated=calibrated)
  with pytest.raises(errors.ConfigError, match='calibrate with that metric'):
    evaluate(calibrated=make_calibration(), own_metric=name)
  result = evaluate(calibrated=calibrated, own_metric=name)
  assert result.metric == name and result.full.mean_metric == 1.0
