"""The page in a real browser: silent, whole, legible, sortable, inert.

Skipped only where no Chromium is installed; `.ci/run` installs one.
CALM_SCREENSHOTS names a folder that keeps the pictures, for people.
"""

import os
import pathlib

import numpy as np
import pytest
from testing import browser, hostile

from calm_jax.report import figures, pairs, write_report
from calm_jax.report import html as report_html

pytestmark = pytest.mark.skipif(
  browser.find() is None, reason=browser.why_missing()
)


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  with browser.start(tmp_path_factory.mktemp('profile')) as running:
    yield running


@pytest.fixture(scope='module')
def page(results, pictures, tmp_path_factory):
  """Path of a report, drawn once for the session."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, 'draw', lambda *results: pictures)
    return write_report(
      results.calibration,
      results.evaluation,
      tmp_path_factory.mktemp('browser') / 'a <b> & "c"',
      results.manifests,
    )


@pytest.fixture
def screenshots(tmp_path):
  folder = pathlib.Path(os.environ.get('CALM_SCREENSHOTS', tmp_path))
  folder.mkdir(parents=True, exist_ok=True)
  return folder


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('width', [1280, 390])
def test_is_silent_whole_and_not_blank(
  chromium, page, screenshots, width, dark
):
  tab = chromium.open(page, width=width, dark=dark)
  name = f'{width}_{"dark" if dark else "light"}.png'
  picture = tab.screenshot(screenshots / name)
  assert tab.complaints() == []
  assert tab.requests() == [page.resolve().as_uri()], 'nothing else is loaded'
  assert picture.shape[1] == width
  # Ground and ink: most of it one colour, and some of another lightness.
  light = picture.mean(axis=2)
  assert (np.median(light) < 0.3) == dark
  assert 0.01 < (np.abs(light - np.median(light)) > 0.3).mean() < 0.5
  # Wide tables and figures scroll inside the page, never the page itself.
  assert tab.run('document.documentElement.scrollWidth') <= width


def test_style_reaches_tokens_and_figures(chromium, page):
  """That is, the policy lets the page's own style through."""
  tab = chromium.open(page, dark=True)
  ground = "getComputedStyle(document.querySelector('.l8')).backgroundColor"
  assert tab.run(ground) == 'rgb(13, 48, 86)'
  drawn = """[...document.querySelectorAll('.fill-ink')].map(
    (x) => getComputedStyle(x).fill)"""
  assert set(tab.run(drawn)) == {'rgb(230, 233, 237)'}, 'light ink on dark'
  heights = """[...document.querySelectorAll('svg.plot')].map(
    (x) => x.getBoundingClientRect().height)"""
  assert len(tab.run(heights)) == 3 and min(tab.run(heights)) > 100


def test_readers_who_do_not_see_it_get_words(chromium, page):
  tab = chromium.open(page)
  tree = tab.call('Accessibility.getFullAXTree')['nodes']
  roles = [
    (node['role']['value'], node.get('name', {}).get('value', ''))
    for node in tree
    if not node['ignored']
  ]
  images = [name for role, name in roles if role in ('image', 'img')]
  assert len(images) == 3 and all(images)
  assert any('certified' in name for name in images)


LOSSES = """[...document.querySelectorAll('#losses tbody tr')].map(
  (row) => Number(row.dataset.KEY))"""


@pytest.mark.parametrize('key', ['loss', 'metric', 'layers', 'tokens'])
def test_losses_sort_by_each_number_both_ways(chromium, page, results, key):
  tab = chromium.open(page)
  values = LOSSES.replace('KEY', key)
  header = f'#losses th[data-key={key}]'
  before = tab.run(values)
  assert len(before) == len(results.evaluation.example_losses)
  click = f"document.querySelector('{header} button').click()"
  state = f"document.querySelector('{header}').getAttribute('aria-sort')"
  seen = []
  for _ in range(2):
    tab.run(click)
    falling = tab.run(state) == 'descending'
    assert tab.run(values) == sorted(before, reverse=falling)
    seen.append(falling)
  assert sorted(seen) == [False, True]
  marked = "document.querySelectorAll('#losses th[aria-sort]').length"
  assert tab.run(marked) == 1
  assert tab.complaints() == []


def test_reads_the_same_without_scripts(chromium, page, results):
  tab = chromium.open(page, scripts=False)
  # The debugger's own expressions run all the same.
  assert tab.run("document.querySelectorAll('#losses button').length") == 0
  listed = tab.run(LOSSES.replace('KEY', 'loss'))
  assert listed == [x.loss for x in results.evaluation.example_losses]
  text = tab.run('document.body.innerText')
  assert 'With probability at least 95%' in text
  assert results.evaluation.example_losses[0].prediction in text
  assert tab.complaints() == []


OPEN_ALL = 'document.querySelectorAll("details").forEach(x => x.open = true)'


@pytest.mark.parametrize('text', hostile.EVERYTHING)
def test_hostile_text_is_inert(chromium, results, pictures, tmp_path, text):
  pair = pairs.Pair(
    *hostile.poison_results(results.calibration, results.evaluation, text)
  )
  manifests = [hostile.poison(manifest, text) for manifest in results.manifests]
  # A path may hold anything but a slash and a NUL.
  folder = tmp_path / (text.replace('/', '').replace('\0', '') or 'x')
  folder.mkdir()
  path = folder / 'index.html'
  source = report_html.render(pair, pictures, manifests, [pair], text)
  path.write_text(source, encoding='utf-8')
  tab = chromium.open(path)
  tab.run(OPEN_ALL)
  assert tab.complaints() == []
  assert tab.requests() == [path.resolve().as_uri()]
  # What was smuggled in would set it to something else.
  assert tab.run('document.title').startswith('task ')
  assert tab.run('document.scripts.length') == 1
  assert (
    tab.run(
      "document.querySelectorAll('img, [onload], a:not(figure a)').length"
    )
    == 0
  )  # noqa: E501
  shown = tab.run('document.body.innerText')
  assert not set('\u202e\u2066\u200b\x00\x1b\x07\x9b') & set(shown)
  assert tab.run('document.documentElement.scrollWidth') <= 1280
