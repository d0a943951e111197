"""Figures of a study: measures against layers and time, K, positions, exits.

rows of `evaluation.trade_off` -> PNG files
"""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from calm_jax.display import colors
from calm_jax.evaluation import trade_off
from calm_jax.report import figures

# Okabe and Ito's colours, then the same with another line; each measure has a
# marker of its own too, so that colour is never the only sign.
_HUES = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#8a6d00', '#56b4e9', '#4d4d4d',
)  # fmt: skip
_MARKERS = 'osD^vPX*<>hp'
_LINES = ('-', '--', ':')

# Fewer tokens than this at a position make no mean worth showing.
_LEAST_TOKENS = 20


def trade_off_figure(
  path: pathlib.Path,
  curves: Mapping[str, Sequence[trade_off.TradeOff]],
  metric: str,
) -> None:
  """Quality against mean layers, and against measured time.

  Time is relative to the full model, which is timed in turn with each
  threshold: sweeps run one after the other, and a machine changes meanwhile.
  """

  def draw(figure):
    panels = figure.subplots(1, 2, sharey=True)
    places = (lambda row: row.mean_layers, lambda row: 1.0 / row.speedup)
    for axes, place in zip(panels, places, strict=True):
      for number, (measure, rows) in enumerate(curves.items()):
        xs = [place(row) for row in rows]
        ys = [row.mean_metric for row in rows]
        axes.plot(xs, ys, label=measure, **_look(number))
    panels[0].set_ylabel(f'{metric} against the reference')
    panels[0].set_xlabel('mean decoder layers per token')
    panels[1].set_xlabel('time per token, full model = 1 (batch 1)')
    panels[0].set_title('Quality against layers')
    panels[1].set_title('Quality against time')
    _focus(panels, curves)
    _legend_below(figure, panels[0], columns=3)

  _write(path, draw, height=4.8)


def top_k_figure(
  path: pathlib.Path,
  recall: Mapping[int, np.ndarray],
  times: Mapping[str, float],
) -> None:
  """Recall of the full model's token at K, and what K costs.

  Args:
    path: of the PNG.
    recall: K -> [layers] share of tokens among the K best of the layer.
    times: system -> ms per token of a run that never leaves early.
  """

  def draw(figure):
    left, right = figure.subplots(1, 2)
    ks = sorted(recall)
    num_layers = len(recall[ks[0]])
    for layer in range(1, num_layers + 1):
      color = colors.layer_color(layer + 1, num_layers + 1)
      ys = [recall[k][layer - 1] for k in ks]
      left.plot(ks, ys, color=color, marker='.', label=f'layer {layer}')
    left.set_xscale('log', base=2)
    left.set_xticks(ks, [str(k) for k in ks])
    left.minorticks_off()
    left.set_xlabel('K')
    left.set_title("Recall: full model's token among the K")
    left.legend(frameon=False, fontsize=7.5, ncol=2, loc='lower right')
    right.set_title('Time of a token that never leaves')
    positions = range(len(times))
    right.barh(positions, times.values(), color=_HUES[0], height=0.62)
    right.set_yticks(positions, times)
    right.invert_yaxis()
    right.set_xlabel('ms per token, batch 1')
    for at, milliseconds in enumerate(times.values()):
      right.annotate(
        f'{milliseconds:.2f}',
        (milliseconds, at),
        (3, 0),
        textcoords='offset points',
        va='center',
        fontsize=8,
      )
    right.grid(False)
    right.margins(x=0.15)

  _write(path, draw, height=3.6)


def exits_figure(
  path: pathlib.Path,
  used: Mapping[str, tuple[float, np.ndarray]],
  num_layers: int,
  loss_limit: float,
) -> None:
  """Layers by position, and how many tokens left at each layer.

  Args:
    path: of the PNG.
    used: measure -> (threshold, [N, T] layers used, 0 where no token is).
    num_layers: L.
    loss_limit: how the thresholds were chosen, for the title.
  """

  def draw(figure):
    left, right = figure.subplots(1, 2)
    for number, (measure, (threshold, layers)) in enumerate(used.items()):
      means, counts = trade_off.layers_by_position(layers)
      shown = counts >= _LEAST_TOKENS
      look = _look(number)
      left.plot(
        np.flatnonzero(shown),
        means[shown],
        **look | {'marker': ''},
        label=f'{measure}, threshold {threshold:g}',
      )
      histogram = np.bincount(layers.ravel(), minlength=num_layers + 1)[1:]
      right.plot(range(1, num_layers + 1), histogram / histogram.sum(), **look)
    left.set_xlabel('position in the output')
    left.set_title('Mean layers by position')
    left.set_ylim(0, num_layers)
    right.set_xlabel('decoder layers used')
    right.set_title(f'Share of tokens (mean loss within {loss_limit:g})')
    right.set_xticks(range(1, num_layers + 1))
    _legend_below(figure, left, columns=2)

  _write(path, draw, height=4.4)


def _look(number: int) -> dict:
  return {
    'color': _HUES[number % len(_HUES)],
    'linestyle': _LINES[number // len(_HUES) % len(_LINES)],
    'marker': _MARKERS[number % len(_MARKERS)],
    'markersize': 3.2,
    'linewidth': 1.2,
  }


def _focus(panels, curves) -> None:
  """Cuts off what is far below the full model and of no practical use."""
  full = max(row.mean_metric for rows in curves.values() for row in rows)
  panels[0].set_ylim(max(0.0, full - 0.3), full + 0.02)


def _legend_below(figure, axes, columns: int) -> None:
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc='outside lower center',
    ncol=columns,
    frameon=False,
    fontsize=7.5,
  )


def _write(path: pathlib.Path, draw, height: float) -> None:
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure(
      figsize=(8.4, height), dpi=160, layout='constrained'
    )
    draw(figure)
    figure.savefig(path, metadata={'Software': None})
