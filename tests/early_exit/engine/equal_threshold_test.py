"""A token leaves where its confidence reaches the threshold, also exactly."""

import functools

import jax
import numpy as np
from testing import tiny_t5

from calm_jax.early_exit.measures import static


def test_a_confidence_equal_to_the_threshold_leaves():
  model, params = tiny_t5.tiny_model(static.StaticExit())
  # A static exit's confidence after layer i of 4 is i/4.
  thresholds = np.float32([0.25, 0.5, 0.75, 0.5000001])
  generate = jax.jit(
    functools.partial(tiny_t5.generate, model, max_decode_length=2)
  )
  result = generate(params, tiny_t5.sources(4), thresholds)
  for row, layer in enumerate((1, 2, 3, 3)):
    used = np.asarray(result.num_layers_used[row])
    assert set(used[used > 0].tolist()) == {layer}
