"""Panels of the validation's figures: one column per dump.

Below `validation_figures`. Every line differs from the others in colour, dash
and marker, so that none needs to be told by its colour alone.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from calm_jax.display import colors, visible_text
from calm_jax.validation import validation_records

Rows = Sequence[validation_records.ValidationRow]


@dataclasses.dataclass(frozen=True)
class Look:
  """How a line looks, and what it is called."""

  label: str
  color: str
  marker: str
  dashes: tuple[float, ...] = ()
  width: float = 1.3


# Okabe and Ito's colours, on white; the order is that of the legend.
RULES = {
  'calibrated': Look('calibrated', colors.CALIBRATION, 'o', width=2.2),
  'mean_loss_scan': Look('naive: mean loss', colors.TEST, 's'),
  'fewest_layers': Look('naive: fewest layers', '#8a6d00', 'D', (4, 1.5)),
  'keeps_95_percent': Look('naive: 95% of metric', '#009e73', '^', (6, 2)),
  'keeps_90_percent': Look('naive: 90% of metric', '#cc79a7', 'v', (6, 2)),
  'fixed_0.9': Look('naive: 0.9', colors.MUTED, 'x', (1, 1.5)),
  'oracle': Look('oracle', colors.INK, '', (1.5, 1.5)),
}


# More in one figure would be too narrow to read.
MOST_COLUMNS = 4


def grid(
  figure: mpl_figure.Figure, columns: Sequence[str], rows: Sequence[str]
) -> list[list[mpl_axes.Axes]]:
  """Empty panels, [row][column]: columns named above, rows at the left."""
  panels = figure.subplots(
    len(rows), len(columns), sharex=True, sharey='row', squeeze=False
  )
  for axes, name in zip(panels[0], columns, strict=True):
    title = visible_text.visible(name)
    axes.set_title(wrapped(title, 24 if len(columns) > 2 else 46), fontsize=7.5)
  for line, name in zip(panels, rows, strict=True):
    line[0].set_ylabel(
      '\n'.join(map(visible_text.visible, name.splitlines())), fontsize=8
    )
    for axes in line:
      axes.tick_params(labelsize=7.5)
      axes.margins(x=0.04)
  return panels


def line(
  axes: mpl_axes.Axes,
  points: Iterable[tuple[float, float]],
  look: Look,
) -> None:
  """One line with its markers, from points (x, y) in any order."""
  points = sorted(points)
  axes.plot(
    [x for x, _ in points],
    [y for _, y in points],
    color=look.color,
    marker=look.marker,
    markersize=3.4,
    markeredgewidth=1.0,
    linewidth=look.width,
    dashes=look.dashes or (None, None),
    label=look.label,
    clip_on=False,
    zorder=3 if look.width > 2 else 2,
  )


def interval(axes: mpl_axes.Axes, rows: Rows, x: str, y: str, color: str):
  """The interval of a share, as a band."""
  rows = sorted(rows, key=lambda row: getattr(row, x))
  axes.fill_between(
    [getattr(row, x) for row in rows],
    [getattr(row, f'{y}_low') for row in rows],
    [getattr(row, f'{y}_high') for row in rows],
    color=color,
    alpha=0.15,
    linewidth=0,
    zorder=1,
  )


def shares(axes: mpl_axes.Axes, failure_prob: float) -> None:
  """An axis of shares of trials, and the failure probability across it."""
  axes.set_ylim(0, 1)
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
  axes.axhline(
    failure_prob,
    color=colors.LIMIT,
    linewidth=1.0,
    dashes=(5, 3),
    zorder=1,
    label=f'failure probability {failure_prob:g}',
  )


def layers(axes: mpl_axes.Axes, num_layers: int) -> None:
  """An axis of layers per token, from none to all."""
  axes.set_ylim(0, num_layers * 1.04)


def sizes(axes: mpl_axes.Axes, values: Sequence[int]) -> None:
  """An axis of sample sizes; a name is left out where there is no room."""
  axes.set_xscale('log')
  axes.minorticks_off()
  named = [
    value
    for value, higher in zip(values, [*values[1:], None], strict=True)
    if higher is None or higher > 1.35 * value
  ]
  axes.set_xticks(named, [f'{value:,}' for value in named])
  axes.tick_params(axis='x', labelrotation=90)
  axes.set_xlabel('texts calibrated on', fontsize=8)


def tolerated(axes: mpl_axes.Axes, tolerances: Sequence[float]) -> None:
  """The line above which a loss breaks its tolerance."""
  axes.plot(
    (0, tolerances[-1]),
    (0, tolerances[-1]),
    color=colors.LIMIT,
    linewidth=1.0,
    dashes=(5, 3),
    zorder=1,
    label='the tolerance itself',
  )


def fit(panels: Sequence[mpl_axes.Axes]) -> None:
  """An axis, shared by the panels, from zero or below to all that is drawn."""
  drawn = [
    value
    for axes in panels
    for line in axes.get_lines()
    for value in line.get_ydata()
  ]
  lowest, highest = min(drawn, default=0.0), max(drawn, default=0.0)
  panels[0].set_ylim(1.06 * min(lowest, 0.0), 1.06 * max(highest, 0.01))


def legend(
  figure: mpl_figure.Figure, panels: Sequence[mpl_axes.Axes], columns: int
) -> None:
  """The lines of all panels, each once, above the figure."""
  found: dict[str, Any] = {}
  for axes in panels:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
      found.setdefault(label, handle)
  figure.legend(
    found.values(),
    found,
    loc='outside upper center',
    ncols=columns,
    frameon=False,
    fontsize=7.8,
    handlelength=2.8,
    columnspacing=1.5,
  )


def wrapped(name: str, width: int) -> str:
  """The name on several lines, broken at commas, spaces and brackets."""
  lines = ['']
  for piece in name.replace('(', '( ').replace(',', ', ').split():
    glue = '' if not lines[-1] or lines[-1].endswith('(') else ' '
    if lines[-1] and len(lines[-1] + glue + piece) > width:
      lines.append(piece)
    else:
      lines[-1] += glue + piece
  return '\n'.join(lines)
