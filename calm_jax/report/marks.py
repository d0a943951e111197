"""Lines, points and labels that the plots are made of.

Below `plots`. Labels stand where the shape of the curves leaves room: quality
rises and loss falls with the layers.
"""

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import patheffects

from calm_jax.display import colors
from calm_jax.records import contracts
from calm_jax.report import curves, wording

# Keeps words legible where a line passes behind them.
_HALO = [patheffects.withStroke(linewidth=3, foreground='white')]


def trade_off_line(
  axes: mpl_axes.Axes,
  points: list[curves.CurveRow],
  name: str,
  look: tuple[str, str],
) -> None:
  """One split's curve of the field `name`, a point per threshold.

  `look` is its colour and its marker, so that colour is not the only sign.
  """
  color, marker = look
  layers = [point.mean_layers for point in points]
  values = [getattr(point, name) for point in points]
  # Two points make no curve.
  style = '-' if len(points) > 2 else ''
  axes.plot(layers, values, style, color=color, alpha=0.55, zorder=2)
  axes.plot(layers, values, marker, color=color, markersize=3.2, zorder=3)


def calibrated_point(
  top: mpl_axes.Axes,
  bottom: mpl_axes.Axes,
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> None:
  """The calibrated threshold on the test split, with the loss's bound."""
  row = evaluation.calibrated
  for axes, value in ((top, row.mean_metric), (bottom, row.mean_loss)):
    axes.plot(
      row.mean_layers,
      value,
      's',
      color=colors.TEST,
      markersize=7,
      markeredgecolor='white',
      markeredgewidth=1.2,
      clip_on=False,
      zorder=5,
    )
  if not wording.is_certified(calibration):
    _label(top, evaluation, row.mean_metric, 'the full model, kept', 0.42)
    return
  bottom.vlines(
    row.mean_layers, row.mean_loss, row.loss_upper_95, colors.TEST, zorder=6
  )
  bottom.plot(
    row.mean_layers,
    row.loss_upper_95,
    '_',
    color=colors.TEST,
    markersize=9,
    markeredgewidth=1.6,
    zorder=6,
  )
  _label(
    top,
    evaluation,
    row.mean_metric,
    f'calibrated threshold {row.threshold:g}:'
    f' {wording.layers(row.mean_layers)} layers,'
    f' {wording.number(row.mean_metric)}',
    0.42,
  )
  _label(
    bottom,
    evaluation,
    row.loss_upper_95,
    f'calibrated: {wording.number(row.mean_loss)},'
    f' 95% upper bound {wording.number(row.loss_upper_95)}',
    0.6,
  )


def _label(
  axes: mpl_axes.Axes,
  evaluation: contracts.EvaluationResult,
  value: float,
  text: str,
  height: float,
) -> None:
  """Names the calibrated point from where neither curve passes.

  Quality rises and loss falls with the layers, so the right-hand side below
  the one and above the other is free.
  """
  row, full = evaluation.calibrated, evaluation.full.mean_layers
  at_left = row.mean_layers < 0.55 * full
  axes.annotate(
    text,
    (row.mean_layers, value),
    (row.mean_layers + 0.04 * full if at_left else full, height),
    textcoords=('data', 'axes fraction'),
    ha='left' if at_left else 'right',
    va='center',
    color=colors.TEST,
    path_effects=_HALO,
    zorder=6,
    arrowprops={
      'arrowstyle': '-',
      'color': colors.TEST,
      'linewidth': 0.8,
      'relpos': (0 if at_left else 1, 0.5),
      'shrinkB': 4,
    },
  )


def limit(
  axes: mpl_axes.Axes, value: float, text: str, left: bool = False
) -> None:
  """A dashed line across, named above one of its ends."""
  axes.axhline(value, color=colors.LIMIT, linewidth=1.1, dashes=(5, 3))
  axes.annotate(
    text,
    (0.0 if left else 1.0, value),
    (4 if left else -4, 3),
    xycoords=('axes fraction', 'data'),
    textcoords='offset points',
    ha='left' if left else 'right',
    va='bottom',
    color=colors.LIMIT,
    path_effects=_HALO,
  )


def dots(
  axes: mpl_axes.Axes, order: np.ndarray, values: np.ndarray, fill: str
) -> None:
  """Points of the calibration, filled or hollow."""
  axes.plot(
    order,
    values,
    'o',
    color=colors.CALIBRATION,
    markerfacecolor=fill,
    markersize=4.5,
    clip_on=False,
    zorder=3,
  )


def mark_choice(
  top: mpl_axes.Axes,
  bottom: mpl_axes.Axes,
  calibration: contracts.CalibrationResult,
) -> None:
  """A line through both panels at the calibrated threshold."""
  if not wording.is_certified(calibration):
    return
  thresholds = [point.threshold for point in calibration.grid]
  at = thresholds.index(calibration.threshold)
  for axes in (top, bottom):
    axes.axvline(at, color=colors.TEST, linewidth=1.1, zorder=1)
  near_end = at > 0.6 * len(thresholds)
  top.annotate(
    f'calibrated: {calibration.threshold:g}',
    (at, 0.9),
    (-6 if near_end else 6, 0),
    xycoords=('data', 'axes fraction'),
    textcoords='offset points',
    ha='right' if near_end else 'left',
    va='center',
    color=colors.TEST,
    path_effects=_HALO,
  )


def name_the_splits(
  axes: mpl_axes.Axes, splits: tuple[tuple[str, tuple[str, str]], ...]
) -> None:
  """The names with the looks of their curves, in the corner left free."""
  for line, (split, (color, marker)) in enumerate(splits):
    sign = {'o': '\u25cf', 's': '\u25a0'}[marker]
    axes.annotate(
      f'{sign} {split} split',
      (1.0, 0.0),
      (-4, 24 - 15 * line),
      xycoords='axes fraction',
      textcoords='offset points',
      ha='right',
      va='bottom',
      color=color,
    )
