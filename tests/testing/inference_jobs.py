"""A job of `calm infer`, for tests of what becomes of its files."""

from calm_jax.inference import results

JOB = results.Job(
  task='task',
  mode='predict',
  split='test',
  threshold=0.9,
  decoding='greedy',
  num_decodes=1,
  inputs_length=8,
  max_decode_length=6,
  shard_id=1,
  num_shards=3,
  num_examples=6,
  batch_size=2,
  batches_per_chunk=1,
  measure='SoftmaxTopTwoGap()',
  threshold_schedule='ConstantThreshold()',
  examples_digest='e',
  model_digest='m',
  config_digest='c',
  versions={'jax': '1'},
  command='calm infer',
)
