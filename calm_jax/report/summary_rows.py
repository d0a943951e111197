"""Full model and calibrated model side by side, row by row, as text.

CalibrationResult, EvaluationResult -> summary_rows -> page, terminal
"""

import dataclasses
import math
from collections.abc import Iterable

from calm_jax.records import contracts
from calm_jax.report import wording

_NONE = '-'


@dataclasses.dataclass(frozen=True)
class SummaryRow:
  """One quantity of both systems, as text.

  `note` explains it; `baselines` are the same quantity of trivial systems.
  """

  label: str
  full: str
  calibrated: str
  note: str = ''
  baselines: tuple[tuple[str, str], ...] = ()


def summary_rows(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> tuple[SummaryRow, ...]:
  """Returns the rows in reading order; those of numbers not known are left out.

  Files of older versions lack the ones about outputs, operations and spread.
  """
  return (
    *_quality_rows(calibration, evaluation),
    *_output_rows(evaluation),
    *_operation_rows(evaluation),
    *_time_rows(evaluation),
  )


def _quality_rows(calibration, evaluation) -> list[SummaryRow]:
  full, calibrated = evaluation.full, evaluation.calibrated
  number = wording.number
  return [
    SummaryRow('Threshold', f'{full.threshold:g}', f'{calibrated.threshold:g}'),
    SummaryRow('Tolerance', _NONE, f'{calibration.tolerance:g}'),
    SummaryRow(
      f'Loss on {evaluation.split}',
      number(full.mean_loss),
      number(calibrated.mean_loss),
      note=wording.loss_name(evaluation),
    ),
    SummaryRow(
      '95% upper bound of it',
      number(full.loss_upper_95),
      number(calibrated.loss_upper_95),
    ),
    SummaryRow(
      wording.metric_name(evaluation.metric),
      number(full.mean_metric),
      number(calibrated.mean_metric),
      note='against the reference',
      baselines=tuple(
        (f'Baseline: {name.replace("_", " ")}', number(value))
        for name, value in evaluation.baselines.items()
      ),
    ),
    *(
      SummaryRow(
        f'{wording.split_score_name(name)} of all, in percent',
        f'{score:.2f}',
        f'{calibrated.split_scores.get(name, math.nan):.2f}',
        note=f'of the whole {evaluation.split} split, as papers print it',
      )
      for name, score in full.split_scores.items()
    ),
  ]


def _output_rows(evaluation) -> list[SummaryRow]:
  full, early = evaluation.full.outputs, evaluation.calibrated.outputs
  if full is None or early is None:
    return []
  metric = wording.metric_name(evaluation.metric)
  rows = [
    SummaryRow(
      'Exact match',
      wording.number(full.exact_match),
      wording.number(early.exact_match),
      note='share of outputs equal to the reference',
    ),
    SummaryRow(
      'Outputs that never end',
      wording.percent(full.endless),
      wording.percent(early.endless),
      note='no end of text within the limit',
    ),
  ]
  if full.endless == early.endless == 0.0:
    return rows  # Nothing to leave out.
  for label, name in (
    (f'{metric} where they end', 'mean_metric_ended'),
    ('Loss where they end', 'mean_loss_ended'),
  ):
    values = [getattr(outputs, name) for outputs in (full, early)]
    rows.append(
      _row(
        label,
        [_NONE if x is None else wording.number(x) for x in values],
        note=f'{full.num_ended:,} texts; where the calibrated output ends too:'
        f' {early.num_ended:,}',
      )
    )
  return rows


def _operation_rows(evaluation) -> list[SummaryRow]:
  full, calibrated = evaluation.full, evaluation.calibrated
  rows = [
    SummaryRow(
      'Mean layers per token',
      wording.layers(full.mean_layers),
      wording.layers(calibrated.mean_layers),
    )
  ]
  if full.flops is None or calibrated.flops is None:
    return rows
  for label, total, reduction, note in (
    (
      'MFLOPs per token',
      'total',
      evaluation.flops_reduction,
      'decoder, confidence and output embedding included',
    ),
    (
      'MFLOPs without output embedding',
      'without_output_embedding',
      evaluation.flops_reduction_without_output_embedding,
      '',
    ),
  ):
    values = [getattr(row.flops, total) for row in (full, calibrated)]
    rows += [
      _row(label, map(wording.millions, values), note),
      SummaryRow('  Reduction', '1.00', wording.ratio(reduction)),
    ]
  return rows


def _time_rows(evaluation) -> list[SummaryRow]:
  full, calibrated = evaluation.full, evaluation.calibrated
  rows = [
    SummaryRow(
      'ms per token',
      wording.milliseconds(full.ms_per_token),
      wording.milliseconds(calibrated.ms_per_token),
      note=f'encoder included; batch size {evaluation.batch_size},'
      f' {evaluation.machine}',
    )
  ]
  speeds = full.speed, calibrated.speed
  if None not in speeds:
    rows += _spread_rows([x.with_encoder for x in speeds], speeds[0])
  rows.append(
    SummaryRow(
      'Speedup',
      '1.00',
      wording.ratio(evaluation.speedup),
      note='all time over all tokens, full over calibrated',
    )
  )
  if evaluation.decoder_speedup is not None and None not in speeds:
    decoders = [x.decoder for x in speeds]
    rows += [
      _row(
        'ms per token, decoder only',
        [wording.milliseconds(x.mean) for x in decoders],
        note="the encoder's time, measured by itself, taken off",
      ),
      *_spread_rows(decoders, speeds[0]),
      SummaryRow(
        'Speedup, decoder only',
        '1.00',
        wording.ratio(evaluation.decoder_speedup),
      ),
    ]
  return rows


def _row(label: str, texts: Iterable[str], note: str = '') -> SummaryRow:
  full, calibrated = texts
  return SummaryRow(label, full, calibrated, note=note)


def _spread_rows(spreads, speed) -> list[SummaryRow]:
  time = wording.milliseconds
  return [
    _row(
      '  Median',
      [time(x.median) for x in spreads],
      note=f'over the {speed.num_batches:,} texts or batches timed, each the'
      f' median of {speed.repeats} runs',
    ),
    _row(
      '  Quartiles',
      [
        f'{time(x.lower_quartile)} to {time(x.upper_quartile)}' for x in spreads
      ],
    ),
  ]
