"""One palette for page and figures, safe for colour-blind readers.

The two splits differ in hue and lightness (blue, vermilion of Okabe and Ito
2008) and in the shape of their points. Layers are a scale of one hue from pale
to dark: the darker a token, the more was computed for it.
"""

INK = '#1f2933'  # text
MUTED = '#5f6b7a'  # secondary text; 5.4:1 on white
RULE = '#d5dae1'  # lines that only guide the eye
GRID = '#eceff3'  # still fainter ones
GROUND = '#ffffff'  # behind figures
CALIBRATION = '#2b6ca3'
TEST = '#c8501e'
LIMIT = '#8a1538'  # the tolerance and the failure probability

# The names that the page's style sheet gives to these colours, and what it
# puts in their place where the reader prefers a dark page.
LIGHT = {
  'ink': INK,
  'muted': MUTED,
  'rule': RULE,
  'grid': GRID,
  'card': GROUND,
  'calibration': CALIBRATION,
  'test': TEST,
  'limit': LIMIT,
}
DARK = {
  'ink': '#e6e9ed',
  'muted': '#9fabb8',
  'rule': '#46525f',
  'grid': '#2b333c',
  'card': '#1c2229',
  'calibration': '#7cb8ea',
  'test': '#f0936a',
  'limit': '#f497ad',
}

_PALE, _MIDDLE, _DARK = '#e6eef5', '#6ba3c8', '#0d3056'


def layer_color(layer: int, num_layers: int) -> str:
  """Returns the background of a token that used `layer` of `num_layers`."""
  place = (layer - 1) / max(num_layers - 1, 1)
  if place <= 0.5:
    return _mix(_PALE, _MIDDLE, 2 * place)
  return _mix(_MIDDLE, _DARK, 2 * place - 1)


def ink_on(background: str) -> str:
  """Returns black or white, whichever is easier to read there.

  One of them always has a contrast of at least 4.5:1 (WCAG 2.2, AA).
  """
  return max(('#000000', '#ffffff'), key=lambda ink: contrast(ink, background))


def contrast(first: str, second: str) -> float:
  """Returns WCAG's contrast ratio of two colours, 1 to 21."""
  dark, light = sorted((_luminance(first), _luminance(second)))
  return (light + 0.05) / (dark + 0.05)


def _mix(first: str, second: str, share: float) -> str:
  channels = zip(_channels(first), _channels(second), strict=True)
  return '#' + ''.join(
    f'{round(low + share * (high - low)):02x}' for low, high in channels
  )


def _channels(color: str) -> tuple[int, ...]:
  return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def _luminance(color: str) -> float:
  """Relative luminance of sRGB."""
  linear = [
    value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
    for value in (channel / 255 for channel in _channels(color))
  ]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
