"""Eight devices against one; a program, for devices are counted at its start.

  XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
    python -m testing.eight_devices FOLDER
"""

import functools
import json
import pathlib
import shutil
import sys
import types

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec
from testing import copying

from calm_jax.decode import generation
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.measures import classifiers, softmax
from calm_jax.parallel import partitioning
from calm_jax.t5 import network
from calm_jax.training import classifier_step, loop, optimizers, step, writers

CONFIG = network.T5Config(
  vocab_size=copying.VOCAB_SIZE,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=24,
  num_encoder_layers=1,
  num_decoder_layers=2,
  dropout_rate=0.1,
)
MODULE = network.Transformer(CONFIG)
BATCHES = copying.CopyingBatches()
# With accumulators, and compiled in a moment.
RATE = 0.3
OPTIMIZER = optimizers.Optimizer(
  optax.sgd(RATE, momentum=0.9), optax.constant_schedule(RATE)
)
SCORED = {'eval_batches': [BATCHES.batch_at(99)]}
STAGE_1 = step.LayerWeightedObjective()
STAGE_2 = classifier_step.ClassifierObjective((classifiers.Linear(),))


def train(
  folder,
  steps,
  num_partitions=None,
  objective=STAGE_1,
  batches=BATCHES,
  **options,
):
  """Runs the loop; returns its state."""
  partitioner = num_partitions and partitioning.PjitPartitioner(num_partitions)
  return loop.train(
    types.SimpleNamespace(module=MODULE),
    batches,
    OPTIMIZER,
    folder,
    steps,
    objective=objective,
    periods=loop.Periods(log=1, evaluate=5, checkpoint=2),
    checkpoints_to_keep=None,
    partitioner=partitioner,
    **options,
  )


def metrics(folder, name='train'):
  """Step -> what the run wrote, without times."""
  path = folder / name / 'metrics.jsonl'
  found = map(json.loads, path.read_text().splitlines())
  return {
    line.pop('step'): {k: v for k, v in line.items() if 'timing' not in k}
    for line in found
  }


def assert_same(actual, expected, steps):
  assert set(steps) <= expected.keys()
  for number in steps:
    assert actual[number].keys() == expected[number].keys()
    for name, value in expected[number].items():
      np.testing.assert_allclose(
        actual[number][name], value, rtol=1e-5, atol=1e-7, err_msg=name
      )


def from_checkpoint(source, target):
  """A folder that holds checkpoint_2 of another run alone."""
  shutil.copytree(source / 'checkpoint_2', target / 'checkpoint_2')
  return target


def check_placement(state):
  """Spelled out by hand for model = 2."""
  decoder = state.params['decoder']['layers_1']
  embedding = state.params['token_embedder']['embedding']
  expected = {
    ('vocab', 'embed'): (embedding, ('model', None)),
    ('embed', 'joined_kv'): (
      decoder['self_attention']['query']['kernel'],
      (None, 'model'),
    ),
    ('joined_kv', 'embed'): (
      decoder['encoder_decoder_attention']['out']['kernel'],
      ('model', None),
    ),
    ('embed', 'mlp'): (decoder['mlp']['wi_0']['kernel'], (None, 'model')),
    ('mlp', 'embed'): (decoder['mlp']['wo']['kernel'], ('model', None)),
    ('embed',): (decoder['pre_mlp_layer_norm']['scale'], (None,)),
    ('heads', 'relpos_buckets'): (
      state.params['decoder']['relpos_bias']['rel_embedding'],
      ('model', None),
    ),
  }
  for axes, (array, spec) in expected.items():
    assert array.sharding.spec == PartitionSpec(*spec), axes
  assert embedding.addressable_shards[0].data.shape == (16, 16)
  # Accumulators lie as their parameters.
  trace = state.opt_state[0].trace
  assert jax.tree.map(lambda x: x.sharding, trace) == jax.tree.map(
    lambda x: x.sharding, state.params
  )


def check_factored_accumulators(params):
  """Adafactor's: vectors are whole, the others lie as their parameters."""
  adafactor = optimizers.adafactor(1e-3, min_dim_size_to_factor=16)
  shapes = jax.eval_shape(adafactor.transformation.init, params)
  partitioner = partitioning.PjitPartitioner(2)
  factored = partitioner.shardings(MODULE, shapes)[0]
  shapes = shapes[0]
  for name in ('v_row', 'v_col', 'v'):
    found = getattr(factored, name)['token_embedder']['embedding']
    assert found.spec == PartitionSpec(), name
    assert len(getattr(shapes, name)['token_embedder']['embedding'].shape) == 1
  table = factored.v['decoder']['relpos_bias']['rel_embedding']
  assert table.spec == PartitionSpec('model', None)


def check_decoding(params):
  model = model_lib.EncoderDecoderModel(
    MODULE, measure=softmax.SoftmaxTopTwoGap(), rows_per_pack=()
  )
  # Sharper than three steps of training make it.
  params = jax.tree.map(lambda x: np.asarray(x) * 3.0, params)
  sources = BATCHES.batch_at(50)['encoder_input_tokens'][:5]
  thresholds = np.stack([np.linspace(0, 1, 5), np.full(5, 0.4)], axis=1)

  def decode(**options):
    generator = generation.TextGenerator(
      model,
      params,
      types.SimpleNamespace(vocab_size=copying.VOCAB_SIZE),
      max_decode_length=6,
      **options,
    )
    return generator.generate_tokens(generator.request(sources, thresholds))

  one = decode(devices=jax.devices()[:1])
  assert set(one.num_layers_used[one.num_layers_used > 0]) == {1, 2}
  # More partitions than heads: each head is divided too.
  many = decode(partitioner=partitioning.PjitPartitioner(4))
  np.testing.assert_array_equal(many.tokens, one.tokens)
  np.testing.assert_array_equal(many.num_layers_used, one.num_layers_used)
  np.testing.assert_allclose(many.log_probs, one.log_probs, atol=1e-4)


def main(folder):
  assert jax.device_count() == 8
  writers.summary_writer = lambda directory: None
  # Runs of one device share a compiled step.
  step.make_train_step = functools.cache(step.make_train_step)
  step.make_eval_step = functools.cache(step.make_eval_step)

  state = train(folder / 'one', 5, **SCORED)
  losses = metrics(folder / 'one')
  two = train(folder / 'two', 5, 2, **SCORED)
  assert_same(metrics(folder / 'two'), losses, range(1, 6))
  for_all = metrics(folder / 'one', 'training_eval')
  assert_same(metrics(folder / 'two', 'training_eval'), for_all, (5,))
  check_placement(two)
  check_factored_accumulators(two.params)
  # Saved by one device and resumed by eight; saved by eight, resumed by one.
  for saved, num_partitions in (('one', 4), ('two', None)):
    resumed = from_checkpoint(
      folder / saved, folder / f'{saved}_to_{num_partitions}'
    )
    train(resumed, 5, num_partitions)
    assert_same(metrics(resumed), losses, (3, 4, 5))
  print('stage 1 is the same')

  options = {'objective': STAGE_2, 'initial_checkpoint_path': folder / 'one'}
  train(folder / 'heads', 1, **options, **SCORED)
  train(folder / 'heads_4', 1, 4, **options, **SCORED)
  for name in ('train', 'training_eval'):
    expected = metrics(folder / 'heads', name)
    assert_same(metrics(folder / 'heads_4', name), expected, (1,))
  print('stage 2 is the same')

  check_decoding(state.params)
  print('tokens are the same')


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
