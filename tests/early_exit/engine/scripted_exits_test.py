"""Any pattern of exits, any lengths, in packs: as a plain Python decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from testing import plain_python, tiny_t5

from calm_jax.early_exit.measures import static

LENGTH = plain_python.LENGTH
BATCH, LAYERS, FULL_MODEL = 5, 4, -1


def scripted_layer(seed, position):
  """The layer where a row's token leaves: arbitrary, but the same anywhere."""
  return 1 + ((seed * 7919 + position * 104729) // 8) % LAYERS


class Script:
  """A threshold schedule that makes `StaticExit` follow the script.

  A row's threshold is its seed, so all scripts share one program.
  """

  def __call__(self, thresholds, position, max_decode_length):
    del max_decode_length
    seeds = thresholds.astype(jnp.int32)
    layer = scripted_layer(seeds, position)
    return jnp.where(seeds == FULL_MODEL, 1.0, (layer - 0.5) / LAYERS)


@functools.cache
def _model(rows_per_pack):
  model, params = tiny_t5.tiny_model(
    static.StaticExit(),
    threshold_schedule=Script(),
    rows_per_pack=rows_per_pack,
  )
  generate = jax.jit(
    functools.partial(tiny_t5.generate, model, max_decode_length=LENGTH)
  )
  return model, params, generate


def _threshold_at(seed, position):
  if seed == FULL_MODEL:
    return 1.0
  return (scripted_layer(seed, position) - 0.5) / LAYERS


@given(
  seeds=st.lists(st.integers(FULL_MODEL, 4000), min_size=BATCH, max_size=BATCH),
  lengths=st.lists(st.integers(1, 6), min_size=BATCH, max_size=BATCH),
)
@settings(max_examples=8, deadline=None)
def test_any_exits_equal_plain_python(seeds, lengths):
  sources = np.array(tiny_t5.sources(BATCH))
  sources[np.arange(sources.shape[1]) >= np.array(lengths)[:, None]] = 0
  model, params, generate = _model(rows_per_pack=(2, 1))
  result = jax.device_get(generate(params, sources, np.float32(seeds)))
  for row, seed in enumerate(seeds):
    plain = plain_python.PlainPython(model, params, sources[row])
    tokens, layers, *_, log_prob = plain.generate(
      functools.partial(_threshold_at, seed)
    )
    rest = [0] * (LENGTH - len(tokens))
    np.testing.assert_array_equal(result.tokens[row], tokens + rest)
    np.testing.assert_array_equal(result.num_layers_used[row], layers + rest)
    np.testing.assert_allclose(result.log_probs[row], log_prob, atol=1e-4)


def test_the_script_uses_every_layer():
  used = {scripted_layer(7, position) for position in range(LENGTH)}
  assert used == set(range(1, LAYERS + 1))
