"""The report: one self-contained page, and its figures next to it.

    CalibrationResult, EvaluationResult -> page -> index.html, PNG, CSV

Last stage of the data flow. The page needs no network; its content security
policy allows its own style and its own script, by their digests, and nothing
else. The script only sorts a list; without it the page says the same. Whatever
text comes from a model or a data set is escaped by the template.
"""

import base64
import hashlib
import os
import pathlib
from collections.abc import Sequence

import jinja2
import markupsafe

from calm_jax.display import colors, visible_text
from calm_jax.records import contracts, csv_tables
from calm_jax.report import (
  curves,
  efficiency_table,
  figures,
  limits,
  loss_view,
  page_files,
  pairs,
  paper_numbers,
  provenance,
  sample_view,
  summary_rows,
  wording,
)

PAGE = 'index.html'
CURVES = 'curves.csv'
_TEMPLATE = 'report.html.jinja'
_STYLE = 'report.css.html.jinja'
_SCRIPT = 'report.js.html.jinja'


def write_report(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
  output_dir: str | os.PathLike,
  manifests: Sequence[contracts.Manifest] = (),
  others: Sequence[pairs.Pair] = (),
  command: str = '',
) -> pathlib.Path:
  """Writes the page, the figures and the curves; returns the page's path.

  An older report there is replaced file by file, the page last; other files
  stay.

  Args:
    calibration: what was certified.
    evaluation: of the same calibration, on the test split.
    output_dir: made if it does not exist.
    manifests: of the dumps that both came from, for the provenance.
    others: further results for the table of efficiency.
    command: repeats the report.

  Raises:
    DataError: the results, or the dumps, do not belong together.
    ResourceError: the directory cannot be written; nothing has changed.
  """
  pair = pairs.Pair(calibration, evaluation)
  provenance.check_belong(pair, manifests)
  pictures = figures.draw(calibration, evaluation)
  rows = curves.curve_rows(calibration, evaluation)
  files = {picture.file: picture.png for picture in pictures}
  files[CURVES] = csv_tables.of_records(rows).encode('utf-8')
  page = render(pair, pictures, manifests, others, command)
  # A lone surrogate would be shown as its code, so encoding cannot fail.
  files[PAGE] = page.encode('utf-8')
  directory = pathlib.Path(output_dir).expanduser()
  page_files.write_all(directory, files)
  return directory / PAGE


def render(
  pair: pairs.Pair,
  pictures: Sequence[figures.Picture],
  manifests: Sequence[contracts.Manifest] = (),
  others: Sequence[pairs.Pair] = (),
  command: str = '',
) -> str:
  """Returns the page as text; the arguments are those of `write_report`."""
  calibration, evaluation = pair.calibration, pair.evaluation
  num_layers = pair.num_decoder_layers
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    # All text on the page passes here, whatever field it comes from.
    finalize=_finalize,
  )
  style = environment.get_template(_STYLE).render(
    shades=_shades(num_layers), light=colors.LIGHT, dark=colors.DARK
  )
  script = environment.get_template(_SCRIPT).render()
  return environment.get_template(_TEMPLATE).render(
    calibration=calibration,
    evaluation=evaluation,
    certified=wording.is_certified(calibration),
    headline=wording.headline(calibration, evaluation),
    guarantee=wording.guarantee(calibration, evaluation),
    measured=wording.measured(calibration, evaluation),
    limits=limits.limits(calibration, evaluation),
    metric=wording.metric_name(evaluation.metric),
    rows=summary_rows.summary_rows(calibration, evaluation),
    efficiency=efficiency_table.efficiency_rows([pair, *others]),
    paper=paper_numbers.SOURCE,
    confidence=_shared_confidence([pair, *others]),
    pictures=pictures,
    samples=[sample_view.view(sample) for sample in evaluation.samples],
    losses=[loss_view.view(example) for example in evaluation.example_losses],
    num_layers=num_layers,
    provenance=provenance.describe(pair, manifests, command),
    # Made of this package's own constants only, hence safe unescaped.
    style=markupsafe.Markup(style),
    script=markupsafe.Markup(script),
    style_hash=_digest(style),
    script_hash=_digest(script),
  )


def _shared_confidence(results: Sequence[pairs.Pair]) -> str:
  """The confidence of all results' guarantees; '' if they differ."""
  found = {pair.failure_prob for pair in results}
  failure_prob = found.pop()
  if found or failure_prob is None:
    return ''
  return wording.confidence(failure_prob)


def _finalize(value: object) -> object:
  if isinstance(value, str) and not isinstance(value, markupsafe.Markup):
    return visible_text.visible(value)
  return value


def _digest(text: str) -> str:
  """As a content security policy names what it allows."""
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shades(num_layers: int) -> list[tuple[int, str, str]]:
  """Layer, background and ink for each layer."""
  shades = []
  for layer in range(1, num_layers + 1):
    background = colors.layer_color(layer, num_layers)
    shades.append((layer, background, colors.ink_on(background)))
  return shades
