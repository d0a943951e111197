"""Runs a split at a grid of thresholds and dumps what the model did.

    examples --generation--> tokens, layers, confidences --writer--> dump

All thresholds of an example run side by side as rows of one batch, and all
batches through one compiled program: thresholds are run time values. The first
row of each example is the full model; its trace holds every layer's confidence
and best token.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import auto as tqdm

import calm_jax
from calm_jax import contracts, errors, generation
from calm_jax.data import corpus
from calm_jax.dump import writer

# Testing starts at 1 and stops at the first failure, so the grid is fine where
# strict tolerances are decided; the paper's has steps of 0.05 all the way.
DEFAULT_THRESHOLDS = (
  *(1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.85, 0.8),
  *(0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0),
)

# Rows (examples x thresholds) decoded side by side.
ROWS = 128

_PACKAGES = ('jax', 'flax', 'numpy', 'sentencepiece')


def config_digest(generator: generation.TextGenerator) -> str:
  """Names what besides the weights decides the output: sizes and exits."""
  model = generator.model
  parts = (
    repr(model.config),
    repr(model.measure),
    repr(model.threshold_schedule),
    generator.tokenizer.digest,
    str((generator.inputs_length, generator.max_decode_length)),
  )
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def header(
  generator: generation.TextGenerator,
  *,
  task: str,
  split: str,
  metric: str,
  thresholds: Sequence[float],
  model_digest: str,
  data_digest: str,
  command: str,
) -> contracts.Manifest:
  """The manifest of a dump that is about to be written.

  Args:
    generator: the model that will be run.
    task: name of the task.
    split: of the task's examples.
    metric: by which the task is judged, from `calm_jax.text_metrics`.
    thresholds: strictly descending, first 1 (the full model).
    model_digest: names the weights.
    data_digest: names the examples.
    command: repeats the dump.

  Returns:
    The manifest, without shards.

  Raises:
    DataError: the thresholds are not such a grid.
  """
  return contracts.Manifest(
    task=task,
    split=split,
    metric=metric,
    thresholds=tuple(float(x) for x in thresholds),
    num_decoder_layers=generator.model.config.num_decoder_layers,
    max_decode_length=generator.max_decode_length,
    measure=repr(generator.model.measure),
    threshold_schedule=repr(generator.model.threshold_schedule),
    model_digest=model_digest,
    config_digest=config_digest(generator),
    data_digest=data_digest,
    versions={
      'calm_jax': calm_jax.__version__,
      **{x: importlib.metadata.version(x) for x in _PACKAGES},
    },
    command=command,
  )


def run(
  generator: generation.TextGenerator,
  examples: Sequence[corpus.Example],
  manifest: contracts.Manifest,
  directory: str | os.PathLike,
  *,
  overwrite: bool = False,
) -> contracts.Manifest:
  """Generates at every threshold and writes the dump.

  Args:
    generator: the model.
    examples: of the split; their order does not matter.
    manifest: from `header`.
    directory: where the dump will be, complete or not at all.
    overwrite: whether a dump there may be replaced.

  Returns:
    The manifest of the complete dump.

  Raises:
    DataError: no examples, an empty input, or a dump is there already.
    NumericError: the model computes NaN.
    ResourceError: the directory cannot be written.
  """
  if not examples:
    raise errors.DataError(
      f'A dump needs at least one example, but the split {manifest.split!r} of'
      f' {manifest.task!r} has none.'
    )
  with writer.ShardWriter(directory, manifest, overwrite=overwrite) as shards:
    progress = tqdm.tqdm(
      total=len(examples), desc=f'dump {manifest.split}', unit='example'
    )
    with progress:
      for part in dumped_batches(generator, examples, manifest.thresholds):
        shards.write(part)
        progress.update(part.num_examples)
  return shards.manifest


def dumped_batches(
  generator: generation.TextGenerator,
  examples: Sequence[corpus.Example],
  thresholds: Sequence[float],
) -> Iterator[contracts.Dump]:
  """One `Dump` per batch; examples of similar length share a batch."""
  per_batch = max(1, ROWS // len(thresholds))
  ordered = sorted(examples, key=lambda x: (len(x.inputs), x.example_id))
  for start in range(0, len(ordered), per_batch):
    batch = ordered[start : start + per_batch]
    yield _dump_batch(generator, batch, thresholds, per_batch)


def _dump_batch(generator, batch, thresholds, per_batch) -> contracts.Dump:
  tokens = generator.encode([x.inputs for x in batch])
  padded = np.zeros((per_batch, tokens.shape[1]), np.int32)
  padded[: len(batch)] = tokens
  grid = np.tile(np.float32(thresholds), (per_batch, 1))
  result = generator.generate_tokens(padded, grid, trace=True)

  def by_example(array):
    array = np.asarray(array)
    shape = (per_batch, len(thresholds), *array.shape[1:])
    return array.reshape(shape)[: len(batch)]

  output = by_example(result.tokens)
  decode = generator.tokenizer.decode
  return contracts.Dump(
    example_ids=np.array([x.example_id for x in batch]),
    sources=np.array([x.inputs for x in batch]),
    references=np.array([x.targets for x in batch]),
    predictions=np.array([[decode(row) for row in rows] for rows in output]),
    tokens=output.astype(np.int32),
    num_layers_used=by_example(result.num_layers_used).astype(np.int8),
    confidences=by_example(result.confidences).astype(np.float32),
    trace_confidences=by_example(result.trace_confidences)[:, 0],
    trace_tokens=by_example(result.trace_tokens)[:, 0],
  )
