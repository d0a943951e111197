"""The report's figures, SVG and PNG: style, rendering, and the list of them.

    CalibrationResult, EvaluationResult -> plots -> SVG for the page, PNG bytes

Drawn for a width of 700 pixels: 7 inches, so that 10 points are 14 pixels
there, at twice that resolution. matplotlib's own font, hence the same picture
on every machine; no pyplot, hence no global state.
"""

import dataclasses
import io
from collections.abc import Callable

import markupsafe
import matplotlib
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from calm_jax.display import colors, visible_text
from calm_jax.records import contracts
from calm_jax.report import curves, plots, vector, wording

_WIDTH, _DPI = 7.0, 200
STYLE = {
  'font.family': 'DejaVu Sans',
  'font.size': 9.5,
  'axes.titlesize': 9.5,
  'axes.titlelocation': 'left',
  'axes.titlepad': 9,
  'axes.titleweight': 'bold',
  'axes.titlecolor': colors.INK,
  'axes.edgecolor': colors.RULE,
  'axes.labelcolor': colors.MUTED,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'text.color': colors.INK,
  # A $ in a name is a $, no mathematics.
  'text.parse_math': False,
  'xtick.color': colors.RULE,
  'ytick.color': colors.RULE,
  'xtick.labelcolor': colors.MUTED,
  'ytick.labelcolor': colors.MUTED,
  'axes.grid': True,
  'axes.grid.axis': 'y',
  'grid.color': colors.GRID,
  'grid.linewidth': 0.8,
  'lines.linewidth': 1.6,
  'lines.solid_capstyle': 'round',
}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A rendered figure and the words that go with it."""

  file: str
  png: bytes
  caption: str
  description: str  # for readers who cannot see it
  svg: markupsafe.Markup = markupsafe.Markup()  # for the page, if there is one


def draw(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> tuple[Picture, ...]:
  """Draws all figures."""
  calibration, evaluation = _legible(calibration, evaluation)
  calibrated = evaluation.calibrated

  def picture(name, plot, height, caption, description):
    def drawn(figure):
      plot(figure, calibration, evaluation)

    return Picture(
      f'{name}.png',
      render(drawn, height),
      caption,
      description,
      render_svg(drawn, height, name, description),
    )

  return (
    picture(
      'quality_against_layers',
      plots.quality_against_layers,
      6.2,
      'Quality and consistency loss against the layers computed per token, one'
      ' point per threshold. The large points are the calibrated threshold; the'
      ' bar reaches to the 95% upper bound of the loss.',
      f'At the calibrated threshold {calibrated.threshold:g}:'
      f' {wording.layers(calibrated.mean_layers)} layers per token,'
      f' {wording.metric_name(evaluation.metric)}'
      f' {wording.number(calibrated.mean_metric)}, loss'
      f' {wording.number(calibrated.mean_loss)}.',
    ),
    picture(
      'layers_used',
      plots.layers_used,
      2.9,
      'How many layers the tokens of the test split used at the calibrated'
      ' threshold. The colours are those of the sample outputs.',
      'Tokens by layers used, from 1 layer on: '
      + ', '.join(map(str, evaluation.layer_histogram))
      + '.',
    ),
    picture(
      'tests_along_the_grid',
      plots.tests_along_the_grid,
      5.4,
      _testing_caption(calibration),
      f'{sum(point.certified for point in calibration.grid)} of'
      f' {len(calibration.grid)} thresholds are certified, down to'
      f' {calibration.threshold:g}.',
    ),
  )


def _testing_caption(calibration: contracts.CalibrationResult) -> str:
  if calibration.procedure.kind == 'FixedSequence':
    return (
      'The calibration, in the order of its tests. Each threshold is tested'
      ' until the first p-value above the failure probability; what comes after'
      ' is not certified, whatever its p-value.'
    )
  return (
    'The calibration, thresholds falling. Filled points are certified by'
    f' {calibration.procedure}.'
  )


def _legible(calibration, evaluation):
  """The two with names that can be drawn: no control characters in them."""
  split = visible_text.visible(curves.calibration_split(calibration))
  dump = dataclasses.replace(calibration.dump, split=split)
  return dataclasses.replace(calibration, dump=dump), dataclasses.replace(
    evaluation,
    split=visible_text.visible(evaluation.split),
    metric=visible_text.visible(evaluation.metric),
  )


def render(plot: Callable[[mpl_figure.Figure], None], height: float) -> bytes:
  """Returns a PNG of what `plot` draws into an empty figure of our style."""
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure(
      figsize=(_WIDTH, height), dpi=_DPI, layout='constrained'
    )
    plot(figure)
    png = io.BytesIO()
    # Without metadata, the same numbers give the same bytes.
    backend_agg.FigureCanvasAgg(figure).print_png(
      png, metadata={'Software': None}
    )
  return png.getvalue()


def render_svg(
  plot: Callable[[mpl_figure.Figure], None],
  height: float,
  name: str,
  description: str,
) -> markupsafe.Markup:
  """Returns the same as SVG; see `vector.inline_svg` for the words."""
  with matplotlib.rc_context({**STYLE, **vector.STYLE}):
    figure = mpl_figure.Figure(figsize=(_WIDTH, height), layout='constrained')
    plot(figure)
    return vector.inline_svg(figure, name, description)
