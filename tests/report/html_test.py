"""The page is self-contained, safe with any text, and never half-written."""

import base64
import dataclasses
import hashlib
import html
import html.parser
import os
import re

import pytest
from testing import dumps, hostile

from calm_jax import errors
from calm_jax.records import contracts
from calm_jax.report import html as report_html
from calm_jax.report import pairs, write_report

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
    if not {'style', 'script'} & set(self.open):
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
    *('4.87', '2.34', '0.651'),
    # Exact match, endless, FLOPs and their reduction, the decoder's speedup.
    *('0.523', '0.481', '6.8%', '27.4', '1.37', '2.11', '2.50'),
    '10.3 to 13.7',
  ):
    assert number in page.text
  for manifest in results.manifests:
    assert manifest.command in page.text
  assert results.evaluation.command in page.text
  assert '--p_value=hoeffding_bentkus --procedure=fixed_sequence' in page.text
  assert 'flax 0.12.1' in page.text and '5f1d' * 16 in page.text


def test_is_self_contained(written):
  page = Page(written[1])
  assert not {'link', 'iframe', 'object', 'img', 'base', 'form'} & {
    tag for tag, _ in page.elements
  }
  files = {file.name for file in written[0].parent.glob('*.png')}
  for tag, attributes in page.elements:
    for name in attributes:
      assert name not in ('src', 'srcset', 'action', 'style')
      assert not name.startswith('on'), f'{tag} {name}'
    if 'href' in attributes:
      link = attributes['href']
      assert link in files if tag == 'a' else link.startswith('#')
  style = re.search('<style>(.*?)</style>', written[1], re.DOTALL)[1]
  assert 'url(' not in style and '@import' not in style
  assert 'http:' not in written[1] and 'https:' not in written[1]


def digest_of(text):
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_policy_allows_its_own_style_and_script_and_nothing_else(written):
  page = Page(written[1])
  policy = next(
    meta['content']
    for meta in page.all('meta')
    if meta.get('http-equiv') == 'Content-Security-Policy'
  )
  style, script = (
    digest_of(re.search(f'<{tag}>(.*?)</{tag}>', written[1], re.DOTALL)[1])
    for tag in ('style', 'script')
  )
  assert policy == (
    f"default-src 'none'; style-src 'sha256-{style}';"
    f" script-src 'sha256-{script}'; base-uri 'none'; form-action 'none'"
  )
  assert len(page.all('script')) == len(page.all('style')) == 1


def test_figures_are_drawings_with_words_and_files_beside_it(written):
  page = Page(written[1])
  drawings = page.all('svg')
  assert len(drawings) == 3
  assert all(x['role'] == 'img' and x['aria-label'] for x in drawings)
  files = {file.name for file in written[0].parent.glob('*.png')}
  assert {link['href'] for link in page.all('a')} == files
  ids = [x['id'] for _, x in page.elements if 'id' in x]
  assert len(set(ids)) == len(ids), 'one document, so ids are unique'
  used = {x['href'] for x in page.all('use')}
  assert used <= {f'#{name}' for name in ids}


def test_every_token_carries_its_layers(results, written):
  page = Page(written[1])
  tokens = [span for span in page.all('span') if 'title' in span]
  used = [x for s in results.evaluation.samples for x in s.num_layers_used]
  assert [token['class'] for token in tokens] == [f't l{x}' for x in used]
  assert [token['title'].split(' of 8')[0] for token in tokens] == list(
    map(str, used)
  )
  assert 'differs from the full model' in page.text
  assert page.text.count('Full model, 8 layers each, differences marked') == 1


def test_colour_is_never_the_only_sign(results, written):
  """Tokens carry their number, differences a line, curves a shape."""
  source = written[1]
  numbers = re.findall('<span class="n">(\\d+)</span>', source)
  used = [x for s in results.evaluation.samples for x in s.num_layers_used]
  assert numbers == list(map(str, used))
  assert re.search(r'mark \{[^}]*text-decoration: underline', source)


def test_losses_are_listed_greatest_first_with_their_texts(results, written):
  page = Page(written[1])
  listed = results.evaluation.example_losses
  rows = [row for row in page.all('tr') if 'data-loss' in row]
  assert [float(row['data-loss']) for row in rows] == [x.loss for x in listed]
  assert [int(row['data-tokens']) for row in rows] == [
    x.num_tokens for x in listed
  ]
  for example in listed[:5]:
    assert example.example_id in page.text
    assert f'{example.loss:.3f}' in page.text
  assert 'The 30 of 1,000 examples with the greatest loss' in page.text
  # Every word of the full output that the early one lacks: "UTF-8,".
  assert len(page.all('mark')) >= 2 + sum(
    x.prediction != x.full_prediction for x in listed
  )


def test_says_what_is_not_guaranteed(results, written):
  text = Page(written[1]).text
  above = sum(x.loss > 0.1 for x in results.evaluation.example_losses)
  assert f'Of 1,000 test texts, {above} lose more than 0.1.' in text
  for part in ('single text', 'another source', 'are right', 'speed, layers'):
    assert part in text


@pytest.mark.parametrize('text', hostile.EVERYTHING)
def test_fault_62_hostile_text_is_shown_and_never_obeyed(results, text):
  pair = pairs.Pair(
    *hostile.poison_results(results.calibration, results.evaluation, text)
  )
  manifests = [hostile.poison(manifest, text) for manifest in results.manifests]
  source = report_html.render(pair, (), manifests, [pair], text)
  page = Page(source)
  assert len(page.all('script')) == 1
  assert not page.all('img') and not page.all('svg') and not page.all('a')
  for _, attributes in page.elements:
    assert not {'onerror', 'onload', 'href'} & set(attributes)
  hidden = '\u202e\u2066\u200b\x00\x1b\x07\x9b'
  assert not set(hidden) & set(html.unescape(source))
  shown = {
    hostile.BIDI: 'a\\u202eb\\u2066c\\u200bd\\u0000e',
    hostile.TERMINAL: '\\u001b]0;owned\\u0007\\u001b[2J\\u009b31m',
  }.get(text, text)
  # Title, headings, samples, losses, provenance, commands.
  assert page.text.count(' '.join(shown.split())) > 60


def test_the_confidence_of_the_table_is_that_of_all_its_rows(results):
  pair = pairs.Pair(results.calibration, results.evaluation)
  weaker = pairs.Pair(
    dataclasses.replace(
      results.calibration, guarantee=contracts.IN_EXPECTATION
    ),
    results.evaluation,
  )
  for others, heading in (
    ([], 'Efficiency at 95%'),
    ([pair], 'Efficiency at 95%'),
    ([weaker], 'Efficiency In the shape'),
  ):
    text = Page(report_html.render(pair, (), (), others)).text
    assert f'{heading}' in text


def test_the_paper_s_numbers_stand_in_rows_of_its_task_only(results):
  ours = pairs.Pair(results.calibration, results.evaluation)
  task, metric = 'cnn_dailymail_v002', 'rouge_l'
  dump = dataclasses.replace(results.calibration.dump, task=task)
  theirs = pairs.Pair(
    dataclasses.replace(results.calibration, dump=dump, metric=metric),
    dataclasses.replace(results.evaluation, task=task, metric=metric),
  )
  without = Page(report_html.render(ours, ())).text
  assert 'paper 5.73' not in without and 'do not stand here' in without
  both = Page(report_html.render(ours, (), (), [theirs])).text
  for number in ('paper 5.73', 'paper 0.44', 'paper 1.41'):
    assert both.count(number) == 1
  assert both.count('paper ') == 3


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
  assert 'does not say' not in page.text


def test_without_samples_or_manifests(results, tmp_path):
  bare = results.replace(samples=(), baselines={}, example_losses=())
  page = Page(write(bare, tmp_path)[1])
  assert 'Sample outputs' not in page.text and 'Baseline' not in page.text
  assert 'Losses of single examples' not in page.text


def test_a_result_of_an_older_version(results, tmp_path):
  """Without endings, operations, spread, losses and command."""
  bare = results.replace(
    example_losses=(),
    command='',
    versions={},
    decoder_speedup=None,
    flops_reduction=None,
    flops_reduction_without_output_embedding=None,
    full=dataclasses.replace(
      results.evaluation.full, outputs=None, flops=None, speed=None
    ),
  )
  page = Page(write(bare, tmp_path)[1])
  assert 'FLOPs reduction is' in page.text and 'MFLOPs' not in page.text
  assert 'Exact match' not in page.text and 'decoder only' not in page.text


@pytest.mark.parametrize(
  'fields', [{'tolerance': 0.2}, {'metric': 'rouge_l'}, {'task': 'other'}]
)
def test_refuses_results_that_do_not_belong_together(results, fields, tmp_path):
  with pytest.raises(errors.DataError, match=next(iter(fields))):
    write(results.replace(**fields), tmp_path / 'report')
  assert not (tmp_path / 'report').exists()


def test_refuses_the_dump_of_another_system(results, tmp_path):
  other = dumps.replaced(results.manifests[1], params_digest='ff' * 32)
  with pytest.raises(errors.DataError, match='test dump .* params_digest'):
    write(results, tmp_path / 'report', [results.manifests[0], other])
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
def test_fault_52_a_full_disk_leaves_what_was_there(
  results, tmp_path, monkeypatch, old
):
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


def test_what_another_process_has_put_there_stays(
  results, tmp_path, monkeypatch
):
  directory = tmp_path / 'report'

  def write_bytes(path, content):
    (directory / 'theirs').write_text('')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(report_html.pathlib.Path, 'write_bytes', write_bytes)
  with pytest.raises(errors.ResourceError, match='No space left on device'):
    write(results, directory)
  assert os.listdir(directory) == ['theirs']


def test_a_file_in_the_way_is_one_sentence(results, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ResourceError, match='file: Not a directory'):
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
