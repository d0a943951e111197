"""A job of `calm infer`, for tests of what becomes of its files."""

from testing import dumps

from calm_jax.inference import results

JOB = results.Job(
  task='task',
  mode='predict',
  split='test',
  threshold=0.9,
  model=dumps.make_model(max_decode_length=6),
  num_decodes=1,
  num_beams=0,
  seed=0,
  prompt='',
  shard_id=1,
  num_shards=3,
  num_examples=6,
  batch_size=2,
  rows_per_pack=(),
  batches_per_chunk=1,
  examples_digest='e',
  versions={'jax': '1'},
  command='calm infer',
)
