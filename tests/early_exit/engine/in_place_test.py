"""The compiled token loop moves no cache and no weights: read from its HLO."""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from calm_jax.decode import model as model_lib
from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  softmax,
  top_k,
)
from calm_jax.t5 import network

# No two sizes are equal, and the smallest cache is larger than any state.
CONFIG = network.T5Config(
  vocab_size=1000,
  emb_dim=48,
  num_heads=3,
  head_dim=16,
  mlp_dim=96,
  num_encoder_layers=1,
  num_decoder_layers=3,
  dropout_rate=0.0,
)
SOURCE, TARGET = 56, 40
CACHE_SIZE = CONFIG.num_heads * CONFIG.head_dim * TARGET
ATTENTION = classifiers.Attention(width=48, num_heads=3)


def compiled_text(measure, batch_size: int, rows_per_pack) -> str:
  """Optimized HLO of a generation."""
  module = network.Transformer(CONFIG)
  tokens = jnp.ones((1, 4), jnp.int32)

  def init():
    params = module.init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
    )['params']
    trained = classifiers.init_params(
      ATTENTION,
      jax.random.key(0),
      CONFIG.emb_dim,
      CONFIG.num_decoder_layers,
    )
    return {**params, classifiers.PARAMS: {ATTENTION.name: trained}}

  model = model_lib.EncoderDecoderModel(
    module, measure=measure, rows_per_pack=rows_per_pack
  )

  def generate(params, sources, thresholds):
    request = model.request(sources, thresholds, max_decode_length=TARGET)
    return model.generate(params, request)

  lowered = jax.jit(generate).lower(
    jax.eval_shape(init),
    jax.ShapeDtypeStruct((batch_size, SOURCE), jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), jnp.float32),
  )
  return lowered.compile().as_text()


def large_copies(text: str, least: int) -> list[str]:
  """Copies of so many elements anywhere but in the entry computation."""
  found, computation = [], ''
  for line in text.splitlines():
    if match := re.match(r'(ENTRY )?%?([\w.-]+) .*\{$', line):
      computation = match[2] if not match[1] else ''
    is_copy = re.search(r'= \w+\[([\d,]*)\]\S* (copy|fusion)\(', line)
    if not computation or computation.startswith(('fused_', 'wrapped_')):
      continue
    if is_copy and (is_copy[2] == 'copy' or 'calls=%wrapped_copy' in line):
      size = math.prod(int(x) for x in is_copy[1].split(',') if x)
      if size >= least:
        found.append(f'{computation}: {line.strip()}')
  return found


@pytest.mark.parametrize(
  'measure, batch_size, rows_per_pack',
  [
    (top_k.TopKPropagation(k=8), 1, ()),
    (softmax.SoftmaxTopTwoGap(), 6, (4, 2)),
    (classifier_confidence.ClassifierConfidence(ATTENTION), 6, (2,)),
  ],
  ids=['one row', 'packs', 'packs with a cache of the measure'],
)
def test_no_loop_or_branch_copies_a_cache_or_weights(
  measure, batch_size, rows_per_pack
):
  text = compiled_text(measure, batch_size, rows_per_pack)
  assert text.count('while(') > CONFIG.num_decoder_layers
  assert large_copies(text, CACHE_SIZE) == []


def test_a_copy_would_be_found():
  """Two carried arrays that change places cannot stay where they are."""

  def loop(first, second):
    return jax.lax.fori_loop(
      0, 9, lambda i, x: (x[1] + i, x[0]), (first, second)
    )

  array = jnp.ones((64, 48))
  text = jax.jit(loop).lower(array, 2 * array).compile().as_text()
  assert large_copies(text, array.size)
