"""Figures inside a page: no style attributes, no loose ids, no hidden text."""

import io
import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_svg

from calm_jax.display import colors
from calm_jax.report import figures, vector


def drawn(plot, name='sketch', description='A sketch.'):
  return figures.render_svg(plot, 2.0, name, description)


def sketch(figure):
  axes = figure.subplots()
  axes.plot([0, 1, 2], [0.123456789, 1, 2], 's-', color=colors.TEST)
  axes.set_title('Title')


def test_is_well_formed_and_described():
  root = ET.fromstring(drawn(sketch, description='Says "it" & <more>.'))
  assert root.tag == 'svg' and root.get('role') == 'img'
  assert root.get('aria-label') == 'Says "it" & <more>.'
  assert root.get('viewBox') == '0 0 504 144', 'seven inches by two'
  tags = {element.tag for element in root.iter()}
  assert tags <= {'svg', 'g', 'defs', 'path', 'use', 'clipPath', 'rect'}


def test_holds_nothing_that_the_policy_forbids_or_two_figures_share():
  first, second = drawn(sketch, 'one'), drawn(sketch, 'two')
  for svg, name in ((first, 'one'), (second, 'two')):
    assert ' style=' not in svg and '<style' not in svg and 'xlink' not in svg
    ids = re.findall(r' id="([^"]*)"', svg)
    assert ids and all(x.startswith(f'{name}-') for x in ids)
    used = re.findall(r'href="#([^"]*)"', svg) + re.findall(
      r'url\(#([^)]*)\)', svg
    )
    assert set(used) == set(ids), 'no id without a use, no use without an id'


def test_colours_of_the_palette_follow_the_page():
  root = ET.fromstring(drawn(sketch))
  known = {color: name for name, color in colors.LIGHT.items()}
  found = set()
  for element in root.iter():
    for key in ('fill', 'stroke'):
      value = element.get(key, '').lower()
      if value in known:
        assert f'{key}-{known[value]}' in element.get('class').split()
        found.add(known[value])
  assert {'test', 'ink', 'muted', 'rule', 'grid'} <= found


def test_coordinates_are_those_of_matplotlib():
  """Against its own file: only rounded, to less than a pixel."""
  with matplotlib.rc_context({**figures.STYLE, **vector.STYLE}):
    figure = mpl_figure.Figure(figsize=(7.0, 2.0), layout='constrained')
    sketch(figure)
    text = io.StringIO()
    backend_svg.FigureCanvasSVG(figure).print_svg(text)
  lines = re.findall(r'<path d="(M [^"]*)"[^>]*fill: none', text.getvalue())
  theirs = [numbers(line) for line in lines]
  ours = [
    numbers(element.get('d'))
    for element in ET.fromstring(drawn(sketch)).iter('path')
    if element.get('fill') == 'none' and element.get('d').startswith('M ')
  ]
  assert max(map(len, theirs)) >= 6, 'the line through three points'
  assert [x for x in ours if len(x) >= 6] == [
    pytest.approx(x, abs=0.006) for x in theirs if len(x) >= 6
  ]


def numbers(path):
  return list(map(float, re.findall(r'-?\d+\.?\d*', path)))


def test_same_numbers_same_text():
  assert drawn(sketch) == drawn(sketch)


def test_text_is_outlines_so_that_no_name_can_be_markup():
  def plot(figure):
    figure.subplots().set_title('</svg><script>alert(1)</script> $x_')

  svg = drawn(plot)
  assert 'script' not in svg and 'alert' not in svg
  assert not ''.join(ET.fromstring(svg).itertext()).strip()
