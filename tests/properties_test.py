"""What must hold for any thresholds, losses, texts and shards."""

import dataclasses
import html
import unicodedata

import hypothesis
import jinja2
import numpy as np
import pytest
from hypothesis import strategies as st
from testing import dumps

from calm_jax import calibration, errors
from calm_jax.calibration import (
  multiple_testing,
  p_values,
  risks,
  threshold_selection,
)
from calm_jax.data import vocabulary
from calm_jax.display import visible_text
from calm_jax.dump import reader
from calm_jax.metrics import text_metrics
from calm_jax.report import html as report_html

# The whole of Unicode, and more of what is difficult.
ANY_TEXT = st.one_of(
  st.text(max_size=20),
  st.text(
    alphabet='aA .\n\t\u2028\u3000\u0301éßİ漢😀\u202e\u200d', max_size=20
  ),
)
UNIT = st.floats(0.0, 1.0, allow_subnormal=False)
settings = hypothesis.settings(deadline=None, derandomize=True)

# --- Thresholds and losses ----------------------------------------------------


@st.composite
def losses_on_grids(draw):
  """Losses [N, G] of thresholds [G], 0 at threshold 1."""
  lower = draw(st.lists(UNIT, min_size=0, max_size=6, unique=True))
  grid = sorted({1.0, *lower}, reverse=True)
  size = draw(st.integers(1, 60))
  seed = draw(st.integers(0, 2**32 - 1))
  random = np.random.default_rng(seed)
  losses = random.random((size, len(grid))) * draw(UNIT)
  return grid, np.where(np.array(grid) == 1.0, 0.0, losses)


@pytest.mark.parametrize(
  ('p_value', 'procedure'),
  [
    (p_values.HoeffdingBentkus(), multiple_testing.FixedSequence()),
    (p_values.HoeffdingBentkus(), multiple_testing.Holm()),
    (p_values.Hoeffding(), multiple_testing.MultiStartFixedSequence(3)),
  ],
  ids=str,
)
@hypothesis.given(
  case=losses_on_grids(),
  tolerances=st.tuples(st.floats(0.01, 0.9), st.floats(0.01, 0.9)),
  failure_probs=st.tuples(st.floats(0.01, 0.5), st.floats(0.01, 0.5)),
)
@hypothesis.settings(settings, max_examples=50)
def test_more_careful_wishes_never_give_a_lower_threshold(
  p_value, procedure, case, tolerances, failure_probs
):
  grid, losses = case

  def threshold(tolerance, failure_prob):
    with np.errstate(all='raise', under='ignore'):
      outcome = threshold_selection.calibrate(
        losses, grid, tolerance, failure_prob, p_value, procedure
      )
    assert outcome.threshold in grid
    certified = outcome.certified
    # What is certified keeps its promise on the sample itself.
    assert (outcome.mean_losses[certified] <= tolerance).all()
    if not certified.any():
      assert outcome.threshold == 1.0
    return outcome.threshold

  careful, careless = sorted(tolerances)
  for failure_prob in failure_probs:
    assert threshold(careful, failure_prob) >= threshold(careless, failure_prob)
  rare, frequent = sorted(failure_probs)
  assert threshold(careful, rare) >= threshold(careful, frequent)


@pytest.mark.parametrize('metric', sorted(text_metrics.METRICS))
@hypothesis.given(
  rows=st.lists(
    st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT), min_size=1, max_size=3
  )
)
@hypothesis.settings(settings, max_examples=25)
def test_losses_of_any_texts_are_numbers_in_their_range(metric, rows):
  references, *outputs = map(np.array, zip(*rows, strict=True))
  predictions = np.stack(outputs, axis=1)
  scoring = text_metrics.METRICS[metric]
  by_name = {
    name: kind(scoring).losses(predictions, references)
    for name, kind in risks.CONSISTENCIES.items()
  }
  for name, losses in by_name.items():
    assert losses.shape == predictions.shape, name
    assert (losses[:, 0] == 0.0).all(), 'the full model loses nothing'
    # Whoever says the same loses the same.
    same = predictions == predictions[:, :1]
    assert (np.where(same, losses - losses[:, :1], 0.0) == 0.0).all()
  textual = by_name['textual']
  assert (textual >= 0.0).all() and (textual <= 1.0).all()
  np.testing.assert_array_equal(
    by_name['risk'], np.maximum(by_name['risk_difference'], 0.0)
  )


# --- Shards -------------------------------------------------------------------


@hypothesis.given(
  order=st.permutations(range(24)),
  cuts=st.sets(st.integers(1, 23), max_size=5),
)
@hypothesis.settings(
  settings,
  max_examples=15,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_shards_may_hold_the_examples_in_any_order(order, cuts, tmp_path):
  manifest, data = dumps.make_dump(24)
  expected = calibration.calibrate_dump((manifest, data), 'risk', 0.4, 0.05)
  mixed = dumps.rows(data, np.array(order))
  edges = [0, *sorted(cuts), 24]
  parts = [
    dumps.rows(mixed, slice(*edge))
    for edge in zip(edges[:-1], edges[1:], strict=True)
  ]
  dumps.write_dump(tmp_path / 'dump', manifest, parts, overwrite=True)
  found = reader.read_dump(tmp_path / 'dump')
  assert len(found[0].shards) == len(parts)
  again = calibration.calibrate_dump(found, 'risk', 0.4, 0.05)
  assert dataclasses.replace(again, dump=expected.dump) == expected


# --- Texts --------------------------------------------------------------------


@hypothesis.given(text=ANY_TEXT)
@hypothesis.settings(settings, max_examples=300)
def test_the_tokenizer_reads_any_text_and_its_own_text_again(text):
  tokenizer = vocabulary.default_tokenizer()
  ids = tokenizer.encode(text)
  assert all(2 < token < tokenizer.vocab_size for token in ids)
  decoded = tokenizer.decode(ids)
  # Where a control between a letter and its accent is dropped, they join.
  again = tokenizer.decode(tokenizer.encode(decoded))
  assert again == unicodedata.normalize('NFKC', decoded)
  assert len(tokenizer.pieces(ids)) == len(ids)
  if unicodedata.is_normalized('NFKC', text) and text.isalnum():
    assert decoded == text


@hypothesis.given(text=st.text(alphabet=st.characters(), max_size=30))
@hypothesis.settings(settings, max_examples=300)
def test_what_is_shown_obeys_nobody(text):
  shown = visible_text.visible(text)
  for character in shown:
    # Controls and formats, among them those of a terminal and of direction.
    assert character in '\n\t' or unicodedata.category(character) not in (
      *('Cc', 'Cf', 'Cs'),
    ), hex(ord(character))
  template = jinja2.Environment(
    autoescape=True, finalize=report_html._finalize
  ).from_string('<b title="{{ text }}">{{ text }}</b>')
  page = template.render(text=text)
  assert page.count('<') == 2 and page.count('"') == 2
  inside = page.removesuffix('</b>').rpartition('>')[2]
  assert html.unescape(inside) == shown
  page.encode('utf-8')


def test_a_lone_surrogate_is_refused_by_the_tokenizer():
  tokenizer = vocabulary.default_tokenizer()
  with pytest.raises(errors.DataError, match='surrogate at character 2'):
    tokenizer.encode('a \ud800 b')
  with pytest.raises(errors.DataError, match='surrogate at character 0'):
    tokenizer.encode_batch(['a', '\udfff'])
