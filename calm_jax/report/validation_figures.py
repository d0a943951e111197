"""Figures of a validation: what calibration buys, and what it costs.

    ValidationResult -> validation_panels -> Picture (PNG and words)

Per objective: violations and layers against the tolerance and against the
calibration size, the loss under a shift, and the replay next to the texts that
were generated. One column per dump.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from calm_jax.display import colors
from calm_jax.report import figures, validation_panels, wording
from calm_jax.validation import replay, validation_records

# Figures about one tolerance show the one of the grid that is nearest to this.
SHOWN_TOLERANCE = 0.1

_Result = validation_records.ValidationResult
_GENERATED = validation_panels.Look(
  'generated at each threshold', colors.INK, 'o'
)
_REPLAYED = validation_panels.Look(
  'replayed from the trace (an estimate)', colors.TEST, 's', (4, 1.5)
)
_SAME = validation_panels.Look(
  'calibrated on the same group', colors.CALIBRATION, 'o', width=2.2
)
_OTHER = validation_panels.Look(
  'calibrated on other texts', colors.TEST, 's', (4, 1.5)
)
# More groups would not be readable; the table has all of them.
_MOST_GROUPS = 6


def draw(result: _Result) -> tuple[figures.Picture, ...]:
  """Draws all figures that the result has rows for; several of many dumps."""
  pictures = []
  for number, part in enumerate(_parts(result), start=1):
    for objective in dict.fromkeys(row.consistency for row in part.rows):
      for make in (_against_tolerance, _against_size, _under_shift, _replayed):
        picture = make(part, objective)
        if picture is not None and number > 1:
          file = picture.file.replace('.png', f'_{number}.png')
          picture = dataclasses.replace(picture, file=file)
        pictures.append(picture)
  return tuple(picture for picture in pictures if picture is not None)


def _parts(result: _Result) -> Iterator[_Result]:
  """The result of a few dumps at a time."""
  names, most = _names(result.rows), validation_panels.MOST_COLUMNS
  for start in range(0, len(names), most):
    chosen = names[start : start + most]
    yield dataclasses.replace(
      result,
      rows=tuple(x for x in result.rows if x.dump in chosen),
      replay_gaps=tuple(x for x in result.replay_gaps if x.dump in chosen),
    )


def shown_tolerance(result: _Result) -> float:
  """The tolerance of the grid that figures and tables show."""
  return min(result.tolerances, key=lambda x: abs(x - SHOWN_TOLERANCE))


def drawn_anew(
  result: _Result, like: validation_records.ValidationRow
) -> list[validation_records.ValidationRow]:
  """Rows on as many texts as the random splits', drawn with replacement."""
  return [
    row
    for row in result.of(validation_records.CALIBRATION_SIZE)
    if row.num_calibration == like.num_calibration
    and row.consistency == like.consistency
  ]


def _against_tolerance(result: _Result, objective: str) -> figures.Picture:
  rows = _rows(result, objective, validation_records.RANDOM_SPLITS)
  first, names = rows[0], _names(rows)
  lines = (
    ('violations\non the test part', rows, 'violations_on_test'),
    (
      'violations of the\nexpected loss',
      drawn_anew(result, first),
      'violations_on_population',
    ),
    ('layers per token', rows, 'layers'),
  )

  def plot(figure):
    panels = validation_panels.grid(figure, names, [name for name, *_ in lines])
    for column, name in enumerate(names):
      for line, (_, there, y) in zip(panels, lines, strict=True):
        here = [row for row in there if row.dump == name]
        _rule_lines(line[column], here, 'tolerance', y)
      for line in panels[:2]:
        validation_panels.shares(line[column], result.failure_prob)
      validation_panels.layers(panels[2][column], result.num_layers)
      panels[2][column].set_xlabel('tolerance', fontsize=8)
    validation_panels.legend(figure, panels[0], 4)

  return figures.Picture(
    f'violations_{objective}.png',
    figures.render(plot, 6.6),
    f'How often each rule breaks its tolerance in {first.num_trials} trials,'
    f' and the layers that it uses. Top: {result.num_examples} texts are split'
    f' at random, {first.num_calibration} to choose a threshold and'
    f' {first.num_test} to test it. Middle: {first.num_calibration} texts are'
    ' drawn with replacement, and the expected loss is known.'
    f' {_loss(first)} Bands: 95% intervals.',
    _at_shown_tolerance(result, rows),
  )


def _against_size(result: _Result, objective: str) -> figures.Picture:
  tolerance = shown_tolerance(result)
  rows = [
    row
    for row in _rows(result, objective, validation_records.CALIBRATION_SIZE)
    if row.tolerance == tolerance
  ]
  names = _names(rows)
  sizes = sorted({row.num_calibration for row in rows})

  def plot(figure):
    panels = validation_panels.grid(
      figure, names, ('violations of the\nexpected loss', 'layers per token')
    )
    for column, name in enumerate(names):
      here = [row for row in rows if row.dump == name]
      for line, y in zip(
        panels, ('violations_on_population', 'layers'), strict=True
      ):
        _rule_lines(line[column], here, 'num_calibration', y)
      validation_panels.shares(panels[0][column], result.failure_prob)
      validation_panels.layers(panels[1][column], result.num_layers)
      validation_panels.sizes(panels[1][column], sizes)
    validation_panels.legend(figure, panels[0], 4)

  return figures.Picture(
    f'calibration_size_{objective}.png',
    figures.render(plot, 4.9),
    'The same rules on fewer or more texts, drawn with replacement, for a'
    f' tolerance of {tolerance:g}. {_loss(rows[0])}',
    f'Samples of {", ".join(map(str, sizes))} texts.',
  )


def _under_shift(result: _Result, objective: str) -> figures.Picture | None:
  rows = [
    row
    for row in _rows(result, objective, validation_records.SHIFT)
    if row.rule == 'calibrated'
  ]
  if not rows:
    return None
  names = _names(rows)
  groups = list(dict.fromkeys(row.tested_on for row in rows))[:_MOST_GROUPS]

  def plot(figure):
    panels = validation_panels.grid(
      figure, names, [f'loss on\n{group}' for group in groups]
    )
    for line, group in zip(panels, groups, strict=True):
      for axes, name in zip(line, names, strict=True):
        for look, same in ((_SAME, True), (_OTHER, False)):
          here = [
            row
            for row in rows
            if (row.dump, row.tested_on) == (name, group)
            and (row.calibrated_on == group) is same
          ]
          validation_panels.line(
            axes, _points(here, 'tolerance', 'population_loss'), look
          )
        validation_panels.tolerated(axes, result.tolerances)
      validation_panels.fit(line)
    for axes in panels[-1]:
      axes.set_xlabel('tolerance', fontsize=8)
    validation_panels.legend(figure, panels[0], 3)

  above = [
    f'{row.tested_on} after {row.calibrated_on}'
    f' {wording.percent(row.violations_on_population)} ({row.dump})'
    for row in rows
    if row.tolerance == shown_tolerance(result)
  ]
  return figures.Picture(
    f'distribution_shift_{objective}.png',
    figures.render(plot, 1.5 + 1.6 * len(groups)),
    'The calibrated rule where the texts to come are like those that it was'
    ' calibrated on, and where they are not, so that nothing is guaranteed:'
    ' mean loss over all texts of a group. A violation is above the line.'
    f' {_loss(rows[0])}',
    f'Violations at a tolerance of {shown_tolerance(result):g}:'
    f' {"; ".join(above)}.',
  )


def _replayed(result: _Result, objective: str) -> figures.Picture | None:
  gaps = _gaps(result, objective)
  if not gaps:
    return None
  names = list(dict.fromkeys(gap.dump for gap in gaps))
  loss = gaps[0].loss.replace('_', ' ')

  def plot(figure):
    panels = validation_panels.grid(
      figure, names, (f'mean loss\n({loss})', 'layers per token')
    )
    for line, what in zip(panels, ('loss', 'layers'), strict=True):
      for axes, name in zip(line, names, strict=True):
        here = [gap for gap in gaps if gap.dump == name]
        for look, route in ((_GENERATED, 'generated'), (_REPLAYED, 'replayed')):
          points = _points(here, 'threshold', f'{route}_{what}')
          validation_panels.line(axes, points, look)
    validation_panels.fit(panels[0])
    for axes in panels[1]:
      validation_panels.layers(axes, result.num_layers)
      axes.set_xlabel('threshold', fontsize=8)
    validation_panels.legend(figure, panels[0], 2)

  largest = max(gaps, key=lambda gap: abs(gap.loss_gap))
  return figures.Picture(
    f'replay_gap_{objective}.png',
    figures.render(plot, 4.6),
    'Thresholds replayed on the trace of the full model, beside the texts that'
    ' the model generated at each of them. The replay is an estimate; the'
    ' guarantee needs the texts.',
    f'The largest gap is {largest.loss_gap:+.3f}, at threshold'
    f' {largest.threshold:g} of {largest.dump}.',
  )


def _gaps(result: _Result, objective: str):
  """Gaps of the objective's losses; where texts could not be read, of tokens.

  The tokens' are about the loss against the full output, hence shown once.
  """
  texts = [x for x in result.replay_gaps if x.loss.startswith(f'{objective} ')]
  if texts or objective != 'textual':
    return texts
  return [x for x in result.replay_gaps if x.loss == replay.TOKEN_DISAGREEMENT]


def _rule_lines(axes, rows, x: str, y: str) -> None:
  for rule, look in validation_panels.RULES.items():
    here = [row for row in rows if row.rule == rule]
    validation_panels.line(axes, _points(here, x, y), look)
    if rule == 'calibrated' and y.startswith('violations'):
      validation_panels.interval(axes, here, x, y, look.color)


def _points(rows, x: str, y: str) -> list[tuple[float, float]]:
  return [(getattr(row, x), getattr(row, y)) for row in rows]


def _rows(result: _Result, objective: str, experiment: str):
  return [x for x in result.of(experiment) if x.consistency == objective]


def _names(rows) -> Sequence[str]:
  return list(dict.fromkeys(row.dump for row in rows))


def _loss(row: validation_records.ValidationRow) -> str:
  metric = wording.metric_name(row.metric)
  return f'Loss: {row.consistency} consistency of {metric}.'


def _at_shown_tolerance(result: _Result, rows) -> str:
  tolerance = shown_tolerance(result)
  found = [
    f'{validation_panels.RULES[row.rule].label}'
    f' {wording.percent(row.violations_on_test)} at'
    f' {wording.layers(row.layers)} layers ({row.dump})'
    for row in rows
    if row.tolerance == tolerance and row.rule in validation_panels.RULES
  ]
  return (
    f'Violations on the test part at a tolerance of {tolerance:g}:'
    f' {"; ".join(found)}.'
  )
