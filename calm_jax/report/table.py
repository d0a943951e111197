"""The final table: full model and calibrated model side by side.

CalibrationResult, EvaluationResult -> summary_rows -> page, terminal
"""

import dataclasses
import textwrap

from calm_jax import contracts
from calm_jax.report import visible_text, wording

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
  """Returns the rows in reading order."""
  full, calibrated = evaluation.full, evaluation.calibrated
  number, layers = wording.number, wording.layers
  return (
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
    SummaryRow(
      'Mean layers per token',
      layers(full.mean_layers),
      layers(calibrated.mean_layers),
    ),
    SummaryRow(
      'ms per token',
      wording.milliseconds(full.ms_per_token),
      wording.milliseconds(calibrated.ms_per_token),
      note=f'batch size {evaluation.batch_size}, {evaluation.machine}',
    ),
    SummaryRow('Speedup', '1.00', f'{evaluation.speedup:.2f}'),
  )


def summary_table(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> str:
  """Returns the table as text for a terminal, at most 80 columns wide."""
  lines = [_line('', 'full model', 'calibrated'), '-' * 60]
  for row in summary_rows(calibration, evaluation):
    lines.append(_line(row.label, row.full, row.calibrated))
    lines += [_line(f'  {name}', value, '') for name, value in row.baselines]
  if not wording.is_certified(calibration):
    lines += ['', *textwrap.wrap(calibration.reason, 78)]
  # Names come from files, and a terminal obeys control characters.
  return '\n'.join(map(visible_text.visible, lines))


def _line(label: str, full: str, calibrated: str) -> str:
  return f'{label:<32}{full:>14}{calibrated:>14}'.rstrip()
