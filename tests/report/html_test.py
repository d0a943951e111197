"""The page is self-contained, safe with any text, and never half-written."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import os
import re

import pytest

from calm_jax import contracts, errors
from calm_jax.report import html as report_html
from calm_jax.report import write_report

VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}


class Page(html.parser.HTMLParser):
  """Elements and text of a page; fails on tags that do not match."""

  def __init__(self, source):
    super().__init__(convert_charrefs=True)
    self.elements, self.texts, self.open = [], [], []
    self.feed(source)
    self.close()
    assert not self.open, f'unclosed: {self.open}'

  def handle_starttag(self, tag, attributes):
    names = [name for name, _ in attributes]
    assert len(set(names)) == len(names)
    self.elements.append((tag, dict(attributes)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if 'style' not in self.open:
      self.texts.append(data)

  def all(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]

  @property
  def text(self):
    return ' '.join(' '.join(self.texts).split())


def write(results, directory, manifests=()):
  path = write_report(
    results.calibration, results.evaluation, directory, manifests
  )
  return path, path.read_text(encoding='utf-8')


@pytest.fixture(autouse=True)
def draw_once(pictures, monkeypatch):
  monkeypatch.setattr(report_html.figures, 'draw', lambda *results: pictures)


@pytest.fixture(scope='module')
def written(results, tmp_path_factory):
  # Older than `draw_once`, so really drawn.
  return write(
    results, tmp_path_factory.mktemp('reports') / 'report', results.manifests
  )


def test_says_what_is_guaranteed_and_measured(results, written):
  page = Page(written[1])
  row = results.evaluation.calibrated
  assert 'With probability at least 95% over the draw' in page.text
  for number in (
    f'{row.mean_loss:.3f}',
    f'{row.loss_upper_95:.3f}',
    f'{row.mean_metric:.3f}',
    f'{row.mean_layers:.2f}',
    f'{row.threshold:g}',
    '4.87',
    '2.34',
    '0.651',
  ):
    assert number in page.text
  for manifest in results.manifests:
    assert manifest.command in page.text
  assert 'flax 0.12.1' in page.text and '5f1d' * 16 in page.text


def test_is_self_contained(written):
  page = Page(written[1])
  assert not {'script', 'link', 'iframe', 'object'} & {
    tag for tag, _ in page.elements
  }
  for _, attributes in page.elements:
    for name in ('src', 'href', 'srcset', 'action', 'style', 'onclick'):
      assert name == 'src' or name not in attributes
    assert attributes.get('src', 'data:').startswith('data:')
  style = re.search('<style>(.*?)</style>', written[1], re.DOTALL)[1]
  assert 'url(' not in style and '@import' not in style
  assert 'http:' not in written[1] and 'https:' not in written[1]


def test_policy_allows_its_own_style_and_nothing_else(written):
  metas = Page(written[1]).all('meta')
  policy = next(
    meta['content']
    for meta in metas
    if meta.get('http-equiv') == 'Content-Security-Policy'
  )
  style = re.search('<style>(.*?)</style>', written[1], re.DOTALL)[1]
  digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
  assert policy.startswith("default-src 'none'; img-src data:;")
  assert f"style-src 'sha256-{digest}'" in policy
  assert 'unsafe' not in policy


def test_images_are_the_files_beside_it_and_are_described(written):
  images = Page(written[1]).all('img')
  files = sorted(written[0].parent.glob('*.png'))
  inline = {
    base64.b64decode(image['src'].removeprefix('data:image/png;base64,'))
    for image in images
  }
  assert inline == {file.read_bytes() for file in files} and len(files) == 3
  assert all(image['alt'] for image in images)


def test_every_token_carries_its_layers(results, written):
  page = Page(written[1])
  tokens = [span for span in page.all('span') if 'title' in span]
  used = [x for s in results.evaluation.samples for x in s.num_layers_used]
  assert [token['class'] for token in tokens] == [f't l{x}' for x in used]
  assert [token['title'].split(' of 8')[0] for token in tokens] == list(
    map(str, used)
  )
  assert 'differs from the full model' in page.text
  assert page.text.count('Full model, differences marked') == 1
  assert len(page.all('mark')) == 2  # "directory," and "first."


HOSTILE = '</span><script>alert(1)</script>"\'><img src=x onerror=y>&amp;'
BIDI = 'a\u202eb\u2066c\u200bd\x00e'


def poison(value, text):
  """The record with `text` in every string that is not an enumeration."""
  if isinstance(value, str):
    return text
  if isinstance(value, tuple):
    return tuple(poison(item, text) for item in value)
  if isinstance(value, dict):
    return {
      poison(key, text): poison(item, text) for key, item in value.items()
    }
  if not dataclasses.is_dataclass(value):
    return value
  kept = ('consistency', 'metric', 'task', 'decode_mode')
  return dataclasses.replace(
    value,
    **{
      field.name: poison(getattr(value, field.name), text)
      for field in dataclasses.fields(value)
      if field.name not in kept and field.name != 'shards'
    },
  )


@pytest.mark.parametrize('text', [HOSTILE, BIDI, '{{ 7 * 7 }}{% raw %}'])
def test_hostile_text_is_shown_and_never_obeyed(results, text):
  task = f'task {text}'
  calibration = dataclasses.replace(
    poison(results.calibration, text), dump={'task': task, text: text}
  )
  evaluation = dataclasses.replace(poison(results.evaluation, text), task=task)
  manifests = [poison(manifest, text) for manifest in results.manifests]
  source = report_html.render(calibration, evaluation, (), manifests)
  page = Page(source)
  assert not page.all('script') and not page.all('img')
  assert all('onerror' not in attributes for _, attributes in page.elements)
  assert not set('\u202e\u2066\u200b\x00') & set(html.unescape(source))
  shown = text if text != BIDI else 'a\\u202eb\\u2066c\\u200bd\\u0000e'
  # Title, headings, samples, pieces, provenance, commands.
  assert page.text.count(' '.join(shown.split())) > 20


def test_nothing_certified_gives_the_reason(
  results_without_certificate, tmp_path
):
  results = results_without_certificate
  page = Page(write(results, tmp_path)[1])
  assert 'No early exit is certified' in page.text
  assert results.calibration.reason in page.text
  assert (
    results.calibration.warning and results.calibration.warning in page.text
  )
  assert 'With probability' not in page.text


def test_without_samples_or_manifests(results, tmp_path):
  page = Page(write(results.replace(samples=(), baselines={}), tmp_path)[1])
  assert 'Sample outputs' not in page.text and 'Baseline' not in page.text


@pytest.mark.parametrize(
  'fields', [{'tolerance': 0.2}, {'metric': 'rouge_l'}, {'task': 'other'}]
)
def test_refuses_results_that_do_not_belong_together(results, fields, tmp_path):
  with pytest.raises(errors.DataError, match=next(iter(fields))):
    write(results.replace(**fields), tmp_path / 'report')
  assert not (tmp_path / 'report').exists()


FILES = {
  'index.html',
  'curves.csv',
  'layers_used.png',
  'quality_against_layers.png',
  'tests_along_the_grid.png',
}


def test_replaces_an_older_report_and_leaves_other_files(results, tmp_path):
  (tmp_path / 'index.html').write_text('old')
  (tmp_path / 'notes.txt').write_text('mine')
  path, source = write(results, tmp_path)
  assert path == tmp_path / 'index.html' and source != 'old'
  names = {entry.name for entry in tmp_path.iterdir()}
  assert names == FILES | {'notes.txt'}
  assert (tmp_path / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('old', [True, False])
def test_a_full_disk_leaves_what_was_there(results, tmp_path, monkeypatch, old):
  directory = tmp_path / 'report'
  if old:
    directory.mkdir()
    (directory / 'index.html').write_text('old')
  wrote = []
  original = report_html.pathlib.Path.write_bytes

  def write_bytes(path, content):
    if len(wrote) == 3:
      raise OSError(28, 'No space left on device')
    wrote.append(path)
    return original(path, content)

  monkeypatch.setattr(report_html.pathlib.Path, 'write_bytes', write_bytes)
  with pytest.raises(errors.ResourceError, match='No space left on device'):
    write(results, directory)
  assert len(wrote) == 3
  if old:
    assert os.listdir(directory) == ['index.html']
    assert (directory / 'index.html').read_text() == 'old'
  else:
    assert not directory.exists()


def test_a_file_in_the_way_is_one_sentence(results, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ResourceError, match='Cannot write the report'):
    write(results, tmp_path / 'file')


def test_records_read_back_from_json_give_the_same_page(results, tmp_path):
  for name, record in (
    ('calibration', results.calibration),
    ('evaluation', results.evaluation),
  ):
    contracts.write_json_atomically(tmp_path / f'{name}.json', record)
  again = dataclasses.replace(
    results,
    calibration=contracts.read_json(
      tmp_path / 'calibration.json', contracts.CalibrationResult
    ),
    evaluation=contracts.read_json(
      tmp_path / 'evaluation.json', contracts.EvaluationResult
    ),
  )
  assert write(again, tmp_path / 'a')[1] == write(results, tmp_path / 'b')[1]
