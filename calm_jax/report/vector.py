"""A matplotlib figure as SVG that stands inside an HTML page.

matplotlib figure -> SVG elements -> Markup

It is part of the page and no image, which would take no colours from the page's
style sheet. The page's content security policy forbids style attributes, so
they become presentation attributes; colours of the palette get classes, so that
the page can give them other values in the dark. Text is drawn as outlines: it
looks the same everywhere and cannot be mistaken for markup. Ids get the
figure's name, as all figures share one document.
"""

import io
import re
import xml.etree.ElementTree as ET

import markupsafe
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_svg

from calm_jax.display import colors

# Over figures.STYLE: the page's own ground, and ids that are no random ones.
STYLE = {
  'figure.facecolor': 'none',
  'axes.facecolor': 'none',
  'savefig.facecolor': 'none',
  'svg.fonttype': 'path',
  'svg.hashsalt': 'calm_jax',
}
_NAMES = {color: name for name, color in colors.LIGHT.items()}
_HREF = '{http://www.w3.org/1999/xlink}href'
_NUMBER = re.compile(r'-?\d+\.\d{3,}')
_DROPPED = frozenset(('metadata', 'style', 'title', 'desc', 'script'))


def inline_svg(
  figure: mpl_figure.Figure, name: str, description: str
) -> markupsafe.Markup:
  """Returns the figure as an `svg` element, drawn under `STYLE`.

  Args:
    figure: ready to be drawn.
    name: prefix of its ids; letters, digits and underscores.
    description: what readers who cannot see it are told.
  """
  text = io.StringIO()
  # Without metadata, the same numbers give the same text.
  backend_svg.FigureCanvasSVG(figure).print_svg(
    text, metadata=dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
  )
  root = ET.fromstring(text.getvalue())
  _clean(root, name)
  size = root.attrib['viewBox']
  root.attrib.clear()
  root.attrib.update(
    {
      'class': 'plot',
      'viewBox': size,
      'role': 'img',
      'aria-label': description,
      # matplotlib's default for all shapes, a style sheet in its own files.
      'stroke-linejoin': 'round',
      'stroke-linecap': 'butt',
    }
  )
  return markupsafe.Markup(ET.tostring(root, encoding='unicode'))


def _clean(root: ET.Element, name: str) -> None:
  """Turns matplotlib's file into elements of a page, in place."""
  for parent in root.iter():
    for child in list(parent):
      if _local(child.tag) in _DROPPED:
        parent.remove(child)
  used = set()
  for element in root.iter():
    element.tag = _local(element.tag)
    _spread_style(element)
    used.update(_references(element))
  for element in root.iter():
    identifier = element.attrib.pop('id', '')
    # Nothing but white space: outlines hold no text.
    element.text = element.tail = None
    if identifier in used:
      element.set('id', f'{name}-{identifier}')
    _prefix_references(element, name)
    for attribute in ('d', 'x', 'y'):
      if attribute in element.attrib:
        rounded = _NUMBER.sub(_rounded, element.attrib[attribute])
        element.set(attribute, ' '.join(rounded.split()))


def _local(tag: str) -> str:
  """The name without its namespace, which HTML knows by itself."""
  return tag.rpartition('}')[2]


def _spread_style(element: ET.Element) -> None:
  """style="fill: #000" -> fill="#000", and a class for a palette's colour."""
  classes = []
  declarations = element.attrib.pop('style', '').split(';')
  for declaration in filter(str.strip, declarations):
    key, _, value = (part.strip() for part in declaration.partition(':'))
    element.set(key, value)
  for key in ('fill', 'stroke'):
    if known := _NAMES.get(element.get(key, '').lower()):
      classes.append(f'{key}-{known}')
  if classes:
    element.set('class', ' '.join(classes))


def _references(element: ET.Element) -> list[str]:
  found = re.findall(r'url\(#([^)]+)\)', ' '.join(element.attrib.values()))
  linked = element.get(_HREF, '').removeprefix('#')
  return [*found, linked] if linked else found


def _prefix_references(element: ET.Element, name: str) -> None:
  if reference := element.attrib.pop(_HREF, ''):
    element.set('href', f'#{name}-{reference.removeprefix("#")}')
  for key, value in element.attrib.items():
    element.set(key, value.replace('url(#', f'url(#{name}-'))


def _rounded(match: re.Match) -> str:
  """A hundredth of a unit is less than a pixel anywhere."""
  return f'{float(match[0]):.2f}'.rstrip('0').rstrip('.')
