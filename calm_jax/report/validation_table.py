"""A validation as text for a terminal: what was bought, and what it cost."""

from calm_jax.display import visible_text
from calm_jax.report import validation_figures, wording
from calm_jax.validation import validation_records

_RULES = (
  'calibrated',
  'calibrated_on_replay',
  'mean_loss_scan',
  'fewest_layers',
  'keeps_95_percent',
  'fixed_0.9',
  'oracle',
)
_HEADER = (
  '  rule',
  'violations',
  '95% interval',
  'drawn anew',
  'layers',
  'loss',
)


def summary(result: validation_records.ValidationResult) -> str:
  """One table per objective, at one tolerance of the grid."""
  tolerance = validation_figures.shown_tolerance(result)
  rows = [
    row
    for row in result.of(validation_records.RANDOM_SPLITS)
    if row.tolerance == tolerance and row.rule in _RULES
  ]
  lines = []
  for objective in dict.fromkeys(row.consistency for row in rows):
    here = [row for row in rows if row.consistency == objective]
    first = here[0]
    lines += [
      f'Tolerance {tolerance:g}, {objective} consistency of'
      f' {wording.metric_name(first.metric)}; {first.num_trials} splits of'
      f' {result.num_examples} texts, {first.num_calibration} to choose the'
      f' threshold and {first.num_test} to test it:',
      '',
    ]
    for dump in dict.fromkeys(row.dump for row in here):
      of_dump = [row for row in here if row.dump == dump]
      lines += [dump, *_table(result, of_dump), '']
  lines += [f'Note: {note}' for note in result.notes]
  # Names come from files, and a terminal obeys control characters.
  return '\n'.join(map(visible_text.visible, lines)).rstrip()


def _table(
  result: validation_records.ValidationResult,
  rows: list[validation_records.ValidationRow],
) -> list[str]:
  anew = {
    row.rule: wording.percent(row.violations_on_population)
    for row in validation_figures.drawn_anew(result, rows[0])
    if (row.dump, row.tolerance) == (rows[0].dump, rows[0].tolerance)
  }
  cells = [_HEADER] + [
    (
      f'  {row.rule}',
      wording.percent(row.violations_on_test),
      f'{100 * row.violations_on_test_low:.1f} to'
      f' {100 * row.violations_on_test_high:.1f}%',
      anew.get(row.rule, '-'),
      f'{row.layers:.2f}',
      f'{row.test_loss:.4f}',
    )
    for row in sorted(rows, key=lambda row: _RULES.index(row.rule))
  ]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return [
    row[0].ljust(widths[0])
    + ''.join(
      f'  {cell.rjust(width)}'
      for cell, width in zip(row[1:], widths[1:], strict=True)
    )
    for row in cells
  ]
