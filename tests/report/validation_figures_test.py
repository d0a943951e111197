"""Figures of a validation: which are drawn, in which words and colours."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib import image as mpl_image
from testing import dumps

from calm_jax.display import colors
from calm_jax.report import (
  validation_figures,
  validation_panels,
  validation_table,
)
from calm_jax.validation import (
  named_dumps,
  trials,
  validate_dumps,
  validation_records,
)

PLAN = trials.Plan(tolerances=(0.05, 0.2, 0.3), num_trials=4, sizes=(25,))


@pytest.fixture(scope='module')
def result():
  manifest, data = dumps.make_dump(60)
  sources = np.array(['short' if i % 2 else 'much longer' for i in range(60)])
  data = dataclasses.replace(data, sources=sources)
  return validate_dumps.validate(
    [named_dumps.NamedDump('Measure $x$', manifest, data)],
    validate_dumps.Settings(plan=PLAN),
  )


@pytest.fixture(scope='module')
def pictures(result):
  return validation_figures.draw(result)


def with_names(result, names):
  """The result of that many dumps, all alike."""
  return dataclasses.replace(
    result,
    rows=tuple(
      dataclasses.replace(row, dump=name)
      for name in names
      for row in result.rows
    ),
    replay_gaps=tuple(
      dataclasses.replace(gap, dump=name)
      for name in names
      for gap in result.replay_gaps
    ),
  )


def test_every_experiment_has_its_figure(result, pictures):
  names = [picture.file for picture in pictures]
  assert names == [
    'violations_textual.png',
    'calibration_size_textual.png',
    'distribution_shift_textual.png',
    'replay_gap_textual.png',
    'violations_risk.png',
    'calibration_size_risk.png',
    'distribution_shift_risk.png',
  ]
  for picture in pictures:
    height, width, _ = mpl_image.imread(io.BytesIO(picture.png)).shape
    assert width == 1400 and height > 800
    assert picture.caption.endswith('.') and picture.description.endswith('.')
  # Of 0.05, 0.2 and 0.3 the nearest to 0.1, to a loss of 0.05 exactly.
  assert validation_figures.shown_tolerance(result) == 0.05
  assert 'naive: mean loss' in pictures[0].description
  assert '4 trials' in pictures[0].caption


def of_objective(result, objective):
  rows = tuple(x for x in result.rows if x.consistency == objective)
  return dataclasses.replace(result, rows=rows)


def test_the_same_result_gives_the_same_bytes(result, pictures):
  assert validation_figures.draw(of_objective(result, 'risk')) == pictures[4:]


def test_many_dumps_take_several_figures_and_no_shift_takes_none(result):
  rows = tuple(
    row
    for row in of_objective(result, 'textual').rows
    if row.experiment != validation_records.SHIFT
  )
  bare = dataclasses.replace(result, rows=rows, replay_gaps=())
  many = with_names(bare, [f'Measure {i}' for i in range(5)])
  pictures = {x.file: x for x in validation_figures.draw(many)}
  assert list(pictures) == [
    'violations_textual.png',
    'calibration_size_textual.png',
    'violations_textual_2.png',
    'calibration_size_textual_2.png',
  ]
  assert 'Measure 3' in pictures['violations_textual.png'].description
  assert 'Measure 4' in pictures['violations_textual_2.png'].description


def test_no_line_is_told_by_its_colour_alone():
  looks = list(validation_panels.RULES.values())
  assert len({(look.marker, look.dashes) for look in looks}) == len(looks)
  for look in looks:
    assert colors.contrast(look.color, '#ffffff') >= 2.9, look.label


@pytest.mark.parametrize(
  ('name', 'width', 'lines'),
  [
    ('SoftmaxTopTwoGap', 24, 1),
    ('TopKPropagation(k=(64, 16), taken_at=1)', 24, 2),
    ('A with DecayingThreshold', 12, 2),
  ],
)
def test_long_names_are_wrapped(name, width, lines):
  wrapped = validation_panels.wrapped(name, width)
  assert len(wrapped.splitlines()) == lines
  assert wrapped.replace('\n', '').replace(' ', '') == name.replace(' ', '')


def test_the_table_says_what_the_rows_say(result):
  text = validation_table.summary(result)
  (row,) = [
    row
    for row in result.of(validation_records.RANDOM_SPLITS)
    if (row.rule, row.consistency, row.tolerance)
    == ('mean_loss_scan', 'textual', 0.05)
  ]
  (line,) = [
    line.split()
    for line in text.split('risk consistency')[0].splitlines()
    if 'mean_loss_scan' in line
  ]
  assert line[1] == f'{100 * row.violations_on_test:g}%'
  assert line[-2:] == [f'{row.layers:.2f}', f'{row.test_loss:.4f}']
  anew = [
    x.violations_on_population
    for x in validation_figures.drawn_anew(result, row)
    if (x.rule, x.tolerance) == (row.rule, row.tolerance)
  ]
  assert line[-3] == f'{100 * anew[0]:g}%'


def test_a_terminal_gets_no_control_characters(result):
  row = dataclasses.replace(result.rows[0], metric='\x1b[2J', dump='\x1b[2J')
  poisoned = dataclasses.replace(result, rows=(row,), notes=('\x1b[2J',))
  poisoned = dataclasses.replace(poisoned, tolerances=(row.tolerance,))
  text = validation_table.summary(poisoned)
  assert '\x1b' not in text and text.count('\\u001b[2J') == 3
