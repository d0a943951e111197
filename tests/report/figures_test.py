"""Figures are pictures of the numbers, and the same on every run."""

import csv
import dataclasses
import io
import warnings

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import image

from calm_jax.display import colors
from calm_jax.records import csv_tables
from calm_jax.report import curves, figures, plots


def pixels(png):
  return image.imread(io.BytesIO(png), format='png')[..., :3]


def has_color(picture, color):
  wanted = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
  return int((np.abs(picture - wanted).max(axis=2) < 0.02).sum())


def test_pictures_are_drawn_at_twice_the_width_of_a_page(pictures):
  assert [picture.file for picture in pictures] == [
    'quality_against_layers.png',
    'layers_used.png',
    'tests_along_the_grid.png',
  ]
  for picture in pictures:
    assert picture.png.startswith(b'\x89PNG\r\n\x1a\n')
    drawn = pixels(picture.png)
    assert drawn.shape[1] == 1400
    ink = (drawn < 0.9).any(axis=2).mean()
    assert 0.02 < ink < 0.5, 'neither empty nor filled'
    assert picture.caption and picture.description


def test_both_splits_and_the_limits_are_in_the_picture(pictures):
  trade_off, histogram, tests = (pixels(picture.png) for picture in pictures)
  for color in (colors.CALIBRATION, colors.TEST, colors.LIMIT):
    assert has_color(trade_off, color) > 100
  for layer in range(1, 9):
    assert has_color(histogram, colors.layer_color(layer, 8)) > 500
  assert has_color(tests, colors.LIMIT) > 100


def test_same_numbers_same_bytes(results, pictures):
  again = figures.draw(results.calibration, results.evaluation)
  assert [picture.png for picture in again] == [
    picture.png for picture in pictures
  ]


def test_no_warning_even_when_nothing_is_certified(
  results_without_certificate,
):
  results = results_without_certificate
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    figures.draw(results.calibration, results.evaluation)


def test_two_thresholds_and_odd_names_are_drawn_too(results):
  """A split named $x_ would be a syntax error to matplotlib's parser."""
  few = tuple(
    point
    for point in results.evaluation.curve
    if point.threshold in (1.0, results.calibration.threshold)
  )
  assert len(few) == 2
  odd = results.replace(curve=few, split='$x_^').evaluation
  figures.draw(results.calibration, odd)


def test_the_lines_are_the_grid(results):
  """What matplotlib holds, against the records."""
  figure = mpl_figure.Figure()
  plots.quality_against_layers(figure, results.calibration, results.evaluation)
  top, bottom = figure.axes
  for axes, name in ((top, 'mean_metric'), (bottom, 'mean_loss')):
    for line, points in (
      (axes.lines[0], results.calibration.grid),
      (axes.lines[2], results.evaluation.curve),
    ):
      np.testing.assert_array_equal(
        line.get_xydata(),
        [(point.mean_layers, getattr(point, name)) for point in points],
      )
  row = results.evaluation.calibrated
  drawn = [tuple(line.get_xydata()[0]) for line in bottom.lines]
  assert (row.mean_layers, row.mean_loss) in drawn
  assert (row.mean_layers, row.loss_upper_95) in drawn


def test_gains_are_drawn_inside_their_panels(results):
  """A risk difference may be negative, and dots are not clipped."""
  calibration, evaluation = (
    dataclasses.replace(
      result,
      consistency='risk_difference',
      **{
        name: tuple(
          dataclasses.replace(point, mean_loss=point.mean_loss - 0.2)
          for point in getattr(result, name)
        )
      },
    )
    for result, name in (
      (results.calibration, 'grid'),
      (results.evaluation, 'curve'),
    )
  )
  row = dataclasses.replace(evaluation.calibrated, mean_loss=-0.4)
  evaluation = dataclasses.replace(evaluation, calibrated=row)
  for plot, place, lowest in (
    (plots.quality_against_layers, 1, -0.4),
    (plots.tests_along_the_grid, 0, -0.2),
  ):
    figure = mpl_figure.Figure()
    plot(figure, calibration, evaluation)
    assert 1.2 * lowest < figure.axes[place].get_ylim()[0] < lowest


def test_two_splits_of_one_name_are_two_lines(results):
  """Which an evaluation allows where the examples are shown to be others."""
  dump = dataclasses.replace(
    results.calibration.dump, split=results.evaluation.split
  )
  figure = mpl_figure.Figure()
  plots.quality_against_layers(
    figure,
    dataclasses.replace(results.calibration, dump=dump),
    results.evaluation,
  )
  calibrated, tested = (figure.axes[0].lines[place] for place in (0, 2))
  assert len(calibrated.get_xdata()) == len(results.calibration.grid)
  assert len(tested.get_xdata()) == len(results.evaluation.curve)


def test_rows_are_tidy_and_survive_csv(results):
  rows = curves.curve_rows(results.calibration, results.evaluation)
  grid, curve = results.calibration.grid, results.evaluation.curve
  assert len(rows) == len(grid) + len(curve)
  assert [row.threshold for row in rows if row.chosen] == [
    results.calibration.threshold
  ] * 2
  parsed = list(csv.DictReader(io.StringIO(csv_tables.of_records(rows))))
  assert list(parsed[0]) == [
    field.name for field in dataclasses.fields(curves.CurveRow)
  ]
  for line, point in zip(parsed, (*grid, *curve), strict=True):
    assert float(line['mean_layers']) == point.mean_layers
    assert float(line['mean_loss']) == point.mean_loss
    tested = hasattr(point, 'p_value')
    assert line['p_value'] == (str(point.p_value) if tested else '')
  assert {line['split'] for line in parsed} == {'calibration', 'test'}
