"""Draws the content of each figure; `figures` gives it style and a file.

Each function draws into an empty matplotlib figure. Labels stand next to what
they name, so there are no legends.
"""

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from calm_jax.display import colors
from calm_jax.records import contracts
from calm_jax.report import curves, marks, wording

# Below this a p-value says no more; the axis need not reach it.
_SMALLEST_P_VALUE = 1e-6


def quality_against_layers(
  figure: mpl_figure.Figure,
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> None:
  """Two panels over the mean layers: the task's metric, and the loss."""
  top, bottom = figure.subplots(2, 1, sharex=True)
  rows = curves.curve_rows(calibration, evaluation)
  splits = (
    (curves.calibration_split(calibration), (colors.CALIBRATION, 'o')),
    (evaluation.split, (colors.TEST, 's')),
  )
  # By what was tested, as both splits may have one name.
  for (_, look), is_tested in zip(splits, (True, False), strict=True):
    points = [row for row in rows if (row.p_value is not None) == is_tested]
    for axes, name in ((top, 'mean_metric'), (bottom, 'mean_loss')):
      marks.trade_off_line(axes, points, name, look)
  marks.limit(
    bottom, calibration.tolerance, f'tolerance {calibration.tolerance:g}'
  )
  marks.calibrated_point(top, bottom, calibration, evaluation)
  metric = wording.metric_name(evaluation.metric)
  top.set_title(f'{metric} against the reference')
  bottom.set_title(f'Loss: {wording.loss_name(evaluation)}')
  bottom.set_xlabel('mean decoder layers per token')
  floor, ceiling = _loss_limits(calibration)
  row = evaluation.calibrated
  bottom.set_ylim(
    min(floor, 1.08 * row.mean_loss), max(ceiling, 1.1 * row.loss_upper_95)
  )
  bottom.set_xlim(right=evaluation.full.mean_layers * 1.02)
  marks.name_the_splits(top, splits)


def layers_used(
  figure: mpl_figure.Figure,
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> None:
  """Share of the test split's tokens that used 1..L layers."""
  del calibration
  axes = figure.subplots()
  counts = np.array(evaluation.layer_histogram)
  layers = np.arange(1, len(counts) + 1)
  shares = counts / max(counts.sum(), 1)
  shade = [colors.layer_color(int(layer), len(counts)) for layer in layers]
  axes.bar(
    layers, shares, 0.82, color=shade, edgecolor=colors.MUTED, linewidth=0.6
  )
  for layer, share in zip(layers, shares, strict=True):
    label = '' if share == 0 else f'{100 * share:.{1 if share < 0.1 else 0}f}%'
    axes.annotate(label, (layer, share), (0, 3), **_ABOVE)
  mean = evaluation.calibrated.mean_layers
  axes.set_title(
    f'Tokens by decoder layers used; {wording.layers(mean)} on average'
  )
  axes.set_xticks(layers)
  axes.tick_params('x', length=0)
  axes.set_xlabel('decoder layers used')
  axes.set_ylim(0, max(shares.max(initial=0) * 1.14, 0.01))
  axes.grid(False)
  axes.yaxis.set_visible(False)
  axes.spines['left'].set_visible(False)


def tests_along_the_grid(
  figure: mpl_figure.Figure,
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> None:
  """Mean loss and p-value of every threshold, in the order of the tests."""
  del evaluation
  top, bottom = figure.subplots(2, 1, sharex=True)
  grid = calibration.grid
  order = np.arange(len(grid))
  losses = np.array([point.mean_loss for point in grid])
  p_values = np.array([point.p_value for point in grid])
  # At threshold 1 there is nothing to test.
  tested = np.array([point.threshold < 1.0 for point in grid], bool)
  shown = np.where(tested, np.maximum(p_values, _SMALLEST_P_VALUE), np.nan)
  certified = np.array([point.certified for point in grid])
  floor, ceiling = _loss_limits(calibration)
  # A dot may stand on the frame, but not beyond it.
  inside = np.where(losses <= ceiling, losses, np.nan)
  for axes, values, dots in ((top, losses, inside), (bottom, shown, shown)):
    axes.plot(order, values, color=colors.CALIBRATION, zorder=2)
    marks.dots(axes, order[certified], dots[certified], colors.CALIBRATION)
    marks.dots(axes, order[~certified], dots[~certified], 'white')
  marks.limit(
    top, calibration.tolerance, f'tolerance {calibration.tolerance:g}'
  )
  marks.limit(
    bottom,
    calibration.failure_prob,
    f'failure probability {calibration.failure_prob:g}',
    left=True,
  )
  top.set_title(
    f'Mean loss on {calibration.num_examples:,} calibration examples'
    '  (filled: certified)'
  )
  top.set_ylim(floor, ceiling)
  bottom.set_title(
    'p-value of \u201cthe expected loss exceeds the tolerance\u201d'
  )
  bottom.set_yscale('log')
  bottom.set_ylim(_SMALLEST_P_VALUE / 2, 2.5)
  bottom.yaxis.set_major_locator(ticker.LogLocator(numticks=4))
  bottom.yaxis.set_minor_locator(ticker.NullLocator())
  bottom.yaxis.set_major_formatter(ticker.FuncFormatter(_p_value_label))
  bottom.set_xlabel('threshold, in the order tested')
  # At most a dozen names, evenly apart: more would run into each other.
  places = order[:: -(-len(grid) // 12)]
  bottom.set_xticks(places, [f'{grid[at].threshold:g}' for at in places])
  marks.mark_choice(top, bottom, calibration)


_ABOVE = {
  'textcoords': 'offset points',
  'ha': 'center',
  'va': 'bottom',
  'color': colors.INK,
}


def _loss_limits(
  calibration: contracts.CalibrationResult,
) -> tuple[float, float]:
  """From 0, or the greatest gain, to what shows the curve cross the tolerance.

  Beyond, nothing is decided.
  """
  losses = [point.mean_loss for point in calibration.grid]
  tolerance = calibration.tolerance
  ceiling = min(max(1.08 * max(losses), 1.5 * tolerance), 4.0 * tolerance)
  return min(0.0, 1.08 * min(losses)), ceiling


def _p_value_label(value: float, position: int) -> str:
  del position
  return '\u2264 10\u207b\u2076' if value <= _SMALLEST_P_VALUE else f'{value:g}'
