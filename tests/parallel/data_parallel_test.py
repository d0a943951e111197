"""Rows on several devices: the same outputs, and nothing exchanged."""

import os
import subprocess
import sys

import numpy as np
import pytest

from calm_jax.parallel import data_parallel

# Devices are counted before JAX starts: a process of its own.
PROGRAM = """
import jax, numpy as np
from testing import tiny_t5
from calm_jax.decode import beam_search, token_generator
from calm_jax.early_exit.engine import sampling
from calm_jax.early_exit.measures import softmax

assert len(jax.devices()) == 4
model, params = tiny_t5.tiny_model(
  softmax.SoftmaxTopTwoGap(), rows_per_pack=(2,)
)
sources = tiny_t5.sources(10)
thresholds = np.stack([np.linspace(0, 1, 10), np.full(10, 0.4)], axis=1)
seeds = np.arange(20, dtype=np.uint32).reshape(10, 2)

def run(devices, **options):
  generator = token_generator.TokenGenerator(
    model, params, devices=devices, max_decode_length=9)
  request = generator.request(sources, thresholds, **options)
  return generator, generator.generate_tokens(request)

def assert_same(found, expected):
  for name in ('tokens', 'num_layers_used'):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
  np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-4)

for options in ({'decode_fn': sampling.Sampler(), 'seeds': seeds}, {}):
  _, one = run(jax.devices()[:1], **options)
  several, four = run(None, **options)
  assert len(set(one.num_layers_used[one.num_layers_used > 0])) > 2
  assert_same(four, one)

def search(devices, batch_size=None):
  generator = token_generator.TokenGenerator(
    model, params, devices=devices, max_decode_length=9)
  request = generator.request(
    sources, np.ones((10, 3)), decode_fn=beam_search.BeamSearch())
  return generator.generate_tokens(request, batch_size=batch_size)

one_search = search(jax.devices()[:1])
for found in (search(None), search(None, batch_size=9)):
  np.testing.assert_array_equal(found.tokens, one_search.tokens)
  np.testing.assert_allclose(found.log_probs, one_search.log_probs, atol=1e-4)

# Plain batches: 3 sources of 2 thresholds, the last batch not full.
several._continuous_batch = None  # It is for one device.
request = several.request(sources, thresholds)
assert_same(several.generate_tokens(request, batch_size=7), one)
none = several.request(sources[:0], thresholds[:0])
assert several.generate_tokens(none, batch_size=7).tokens.shape == (0, 9)

text = several._generate.lower(
  (several.params, several._prepared), request.map_rows(several._division.pad)
).compile().as_text()
for collective in ('all-reduce', 'all-gather', 'collective-permute',
                   'all-to-all'):
  assert collective + '(' not in text, collective
assert 'while(' in text
print('same')
"""


@pytest.mark.slow
def test_four_devices_equal_one_and_exchange_nothing():
  flags = '--xla_force_host_platform_device_count=4'
  found = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    env={**os.environ, 'XLA_FLAGS': flags, 'PYTHONPATH': 'tests'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0 and 'same' in found.stdout, found.stderr


def test_rows_are_filled_up_to_equal_shares():
  division = data_parallel.RowDivision([object()] * 1)
  division.num_devices = 4
  padded = division.pad(np.ones((5, 3)))
  assert padded.shape == (8, 3)
  assert padded[:5].all() and not padded[5:].any()
  assert division.pad(np.ones(4)).shape == (4,)
