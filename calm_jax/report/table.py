"""The final table for a terminal: full model and calibrated model.

CalibrationResult, EvaluationResult -> summary_rows -> text
"""

import textwrap

from calm_jax.display import visible_text
from calm_jax.records import contracts
from calm_jax.report import summary_rows, wording


def summary_table(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> str:
  """Returns the table as text for a terminal, at most 80 columns wide."""
  lines = [_line('', 'full model', 'calibrated'), '-' * 66]
  for row in summary_rows.summary_rows(calibration, evaluation):
    lines.append(_line(row.label, row.full, row.calibrated))
    lines += [_line(f'  {name}', value, '') for name, value in row.baselines]
  if not wording.is_certified(calibration):
    lines += ['', *textwrap.wrap(calibration.reason, 78)]
  # Names come from files, and a terminal obeys control characters.
  return '\n'.join(map(visible_text.visible, lines))


def _line(label: str, full: str, calibrated: str) -> str:
  return f'{label:<34}{full:>16}{calibrated:>16}'.rstrip()
