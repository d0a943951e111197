"""The palette is legible, also without colour vision."""

import pytest

from calm_jax.display import colors


def test_contrast_is_wcag_s():
  """Values that WCAG's own examples and checkers give."""
  assert colors.contrast('#000000', '#ffffff') == pytest.approx(21.0)
  assert colors.contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=0.01)
  assert colors.contrast('#ff0000', '#ffffff') == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize('num_layers', [1, 2, 8, 24, 48])
def test_tokens_are_legible_at_every_layer(num_layers):
  shades = [
    colors.layer_color(layer, num_layers) for layer in range(1, num_layers + 1)
  ]
  for shade in shades:
    assert colors.contrast(shade, colors.ink_on(shade)) >= 4.5
  # Darker with every layer: the order survives without hue.
  light = [colors.contrast(shade, '#000000') for shade in shades]
  assert light == sorted(light, reverse=True)
  assert len(set(shades)) == num_layers


def test_words_in_the_palette_are_legible_on_white():
  for color in (
    colors.INK,
    colors.MUTED,
    colors.CALIBRATION,
    colors.TEST,
    colors.LIMIT,
  ):
    assert colors.contrast(color, '#ffffff') >= 4.5


def test_the_dark_palette_is_legible_too():
  assert colors.DARK.keys() == colors.LIGHT.keys()
  for name in ('ink', 'muted', 'calibration', 'test', 'limit'):
    assert colors.contrast(colors.DARK[name], colors.DARK['card']) >= 4.5
  for palette in (colors.LIGHT, colors.DARK):
    # Lines guide the eye; they must not be louder than words.
    faint = colors.contrast(palette['grid'], palette['card'])
    assert faint < colors.contrast(palette['muted'], palette['card'])
  assert len(set(colors.LIGHT.values())) == len(colors.LIGHT)
