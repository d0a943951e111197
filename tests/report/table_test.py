"""The terminal's table and the sentences hold the results' numbers."""

import dataclasses

import pytest

from calm_jax.report import summary_table, wording


def cells(text, label):
  line = next(x for x in text.splitlines() if x.strip().startswith(label))
  return line.strip().removeprefix(label).split()


def test_every_quantity_is_in_the_table(results):
  text = summary_table(results.calibration, results.evaluation)
  row, full = results.evaluation.calibrated, results.evaluation.full
  assert cells(text, 'Threshold') == ['1', f'{row.threshold:g}']
  assert cells(text, 'Tolerance') == ['-', '0.1']
  assert cells(text, 'Loss on test') == ['0', f'{row.mean_loss:.3f}']
  assert cells(text, '95% upper bound of it') == [
    '0',
    f'{row.loss_upper_95:.3f}',
  ]
  assert cells(text, 'chrF') == [
    f'{full.mean_metric:.3f}',
    f'{row.mean_metric:.3f}',
  ]
  assert cells(text, 'Baseline: input copied') == ['0.651']
  assert cells(text, 'Mean layers per token') == ['8', f'{row.mean_layers:.2f}']
  assert cells(text, 'ms per token') == ['11.4', '4.87']
  assert cells(text, 'Speedup') == ['1.00', '2.34']
  assert cells(text, 'Exact match') == ['0.523', '0.481']
  assert cells(text, 'Outputs that never end') == ['6.8%', '7%']
  assert cells(text, 'chrF where they end') == ['0.943', '0.917']
  assert cells(text, 'Loss where they end') == ['0', '0.031']
  assert cells(text, 'MFLOPs per token') == [
    f'{full.flops.total / 1e6:.1f}',
    f'{row.flops.total / 1e6:.1f}',
  ]
  assert cells(text, 'Reduction') == ['1.00', '1.37']
  assert cells(text, 'Median') == ['11.2', '4.77']
  assert cells(text, 'Quartiles') == '10.3 to 13.7 4.38 to 5.84'.split()
  assert cells(text, 'ms per token, decoder only') == ['10.9', '4.37']
  assert cells(text, 'Speedup, decoder only') == ['1.00', '2.50']
  assert text.isascii() and max(map(len, text.splitlines())) <= 80


def test_outputs_that_all_end_need_no_rows_without_the_others(results):
  evaluation = results.evaluation
  ended = [
    dataclasses.replace(
      row, outputs=dataclasses.replace(row.outputs, endless=0.0)
    )
    for row in (evaluation.full, evaluation.calibrated)
  ]
  text = summary_table(
    results.calibration,
    results.replace(full=ended[0], calibrated=ended[1]).evaluation,
  )
  assert cells(text, 'Outputs that never end') == ['0%', '0%']
  assert 'where they end' not in text


def test_what_was_not_measured_has_no_row(results):
  bare = dataclasses.replace(
    results.evaluation.calibrated, outputs=None, flops=None, speed=None
  )
  text = summary_table(
    results.calibration, results.replace(calibrated=bare).evaluation
  )
  for label in ('Exact match', 'MFLOPs', 'Median', 'decoder only'):
    assert label not in text
  assert 'Speedup' in text


def test_says_why_nothing_is_certified(results_without_certificate):
  results = results_without_certificate
  text = summary_table(results.calibration, results.evaluation)
  assert 'No threshold below 1 is certified' in text
  assert max(map(len, text.splitlines())) <= 80


def test_a_terminal_gets_no_control_characters(results):
  hostile = results.replace(baselines={'\x1b[2Jcopied\u202e': 0.5})
  text = summary_table(hostile.calibration, hostile.evaluation)
  assert '\x1b' not in text and '\\u001b[2Jcopied\\u202e' in text


def test_the_guarantee_in_plain_words(results):
  text = wording.guarantee(results.calibration, results.evaluation)
  assert text == (
    'With probability at least 95% over the draw of the calibration set (1,000'
    ' examples), the expected loss of a new text is at most 0.1, where the loss'
    " is 1 \u2212 chrF against the full model's output."
  )
  risk = dataclasses.replace(results.evaluation, consistency='risk')
  assert 'chrF lost against the reference' in wording.loss_name(risk)


@pytest.mark.parametrize(
  ('failure_prob', 'text'),
  [(0.05, '95%'), (0.1, '90%'), (0.07, '93%'), (1e-6, '99.9999%')],
)
def test_a_guarantee_is_never_called_certain(failure_prob, text):
  assert wording.confidence(failure_prob) == text


@pytest.mark.parametrize(
  ('mean', 'upper', 'verdict'),
  [
    (0.05, 0.08, 'within the tolerance'),
    (0.08, 0.12, 'too small to confirm'),
    (0.12, 0.16, 'above the tolerance'),
  ],
)
def test_the_measurement_is_judged_honestly(results, mean, upper, verdict):
  row = dataclasses.replace(
    results.evaluation.calibrated, mean_loss=mean, loss_upper_95=upper
  )
  measured = results.replace(calibrated=row).evaluation
  text = wording.measured(results.calibration, measured)
  assert verdict in text and f'{mean:.3f}' in text and f'{upper:.3f}' in text


@pytest.mark.parametrize(
  ('value', 'text'),
  [(0.0416, '0.04'), (4.871, '4.87'), (11.42, '11.4'), (123.4, '123')],
)
def test_milliseconds(value, text):
  assert wording.milliseconds(value) == text
