"""The report: one self-contained page, and its figures beside it.

    CalibrationResult, EvaluationResult -> page -> index.html, PNG, CSV

Last stage of the data flow. The page needs no network and no script; its
content security policy allows nothing but its own style and images. Whatever
text comes from a model or a data set is escaped by the template.
"""

import base64
import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence

import jinja2
import markupsafe

from calm_jax import contracts, errors
from calm_jax.report import (
  colors,
  curves,
  figures,
  sample_view,
  table,
  visible_text,
  wording,
)

PAGE = 'index.html'
CURVES = 'curves.csv'
_TEMPLATE = 'report.html.jinja'
_STYLE = 'report.css.html.jinja'


def write_report(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
  output_dir: str | os.PathLike,
  manifests: Sequence[contracts.Manifest] = (),
) -> pathlib.Path:
  """Writes the page, the figures and the curves; returns the page's path.

  An older report there is replaced file by file, the page last; other files
  stay.

  Args:
    calibration: what was certified.
    evaluation: of the same calibration, on the test split.
    output_dir: made if it does not exist.
    manifests: of the dumps that both came from, for the provenance.

  Raises:
    DataError: the two results do not belong together.
    ResourceError: the directory cannot be written; nothing has changed.
  """
  _check_same(calibration, evaluation)
  pictures = figures.draw(calibration, evaluation)
  rows = curves.curve_rows(calibration, evaluation)
  files = {picture.file: picture.png for picture in pictures}
  files[CURVES] = curves.to_csv(rows).encode('utf-8')
  page = render(calibration, evaluation, pictures, manifests)
  # A lone surrogate would be shown as its code, so encoding cannot fail.
  files[PAGE] = page.encode('utf-8')
  directory = pathlib.Path(output_dir).expanduser()
  _write_all(directory, files)
  return directory / PAGE


def render(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
  pictures: Sequence[figures.Picture],
  manifests: Sequence[contracts.Manifest] = (),
) -> str:
  """Returns the page as text."""
  num_layers = max(len(evaluation.layer_histogram), 1)
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
    shades=_shades(num_layers), colors=colors
  )
  return environment.get_template(_TEMPLATE).render(
    calibration=calibration,
    evaluation=evaluation,
    certified=wording.is_certified(calibration),
    headline=wording.headline(calibration, evaluation),
    guarantee=wording.guarantee(calibration, evaluation),
    measured=wording.measured(calibration, evaluation),
    metric=wording.metric_name(evaluation.metric),
    rows=table.summary_rows(calibration, evaluation),
    pictures=[(picture, _data_uri(picture.png)) for picture in pictures],
    samples=[sample_view.view(sample) for sample in evaluation.samples],
    num_layers=num_layers,
    manifests=manifests,
    # Made of this package's own constants only, hence safe unescaped.
    style=markupsafe.Markup(style),
    style_hash=base64.b64encode(
      hashlib.sha256(style.encode()).digest()
    ).decode(),
  )


def _finalize(value: object) -> object:
  is_text = isinstance(value, str) and not isinstance(value, markupsafe.Markup)
  return visible_text.visible(value) if is_text else value


def _shades(num_layers: int) -> list[tuple[int, str, str]]:
  """Layer, background and ink for each layer."""
  shades = []
  for layer in range(1, num_layers + 1):
    background = colors.layer_color(layer, num_layers)
    shades.append((layer, background, colors.ink_on(background)))
  return shades


def _data_uri(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def _check_same(
  calibration: contracts.CalibrationResult,
  evaluation: contracts.EvaluationResult,
) -> None:
  pairs = {
    'threshold': (calibration.threshold, evaluation.calibrated.threshold),
    'task': (calibration.dump.get('task'), evaluation.task),
  }
  for name in ('tolerance', 'failure_prob', 'consistency', 'metric'):
    pairs[name] = (getattr(calibration, name), getattr(evaluation, name))
  for name, (calibrated, evaluated) in pairs.items():
    if calibrated != evaluated:
      raise errors.DataError(
        'The evaluation must be of this calibration, but the calibration has'
        f' {name} {calibrated!r} and the evaluation {evaluated!r}; run'
        ' `calm evaluate` with this calibration.'
      )


def _write_all(directory: pathlib.Path, files: dict[str, bytes]) -> None:
  """Writes all files beside their places, then renames them in this order."""
  with _explained(directory):
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix='.report-', dir=directory))
    try:
      for name, content in files.items():
        (staging / name).write_bytes(content)
      for name in files:
        os.replace(staging / name, directory / name)
    except BaseException:
      shutil.rmtree(staging, ignore_errors=True)
      if is_new:
        shutil.rmtree(directory, ignore_errors=True)
      raise
    staging.rmdir()


@contextlib.contextmanager
def _explained(directory: pathlib.Path) -> Iterator[None]:
  """Turns the operating system's errors into a ResourceError."""
  try:
    yield
  except OSError as error:
    raise errors.ResourceError(
      f'Cannot write the report to {directory}: {error.strerror or error}. Free'
      ' space or choose a directory that you may write to.'
    ) from error
