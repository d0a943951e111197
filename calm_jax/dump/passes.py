"""Passes over a split: each generates some thresholds for all examples.

Below `runner`. Shards grow by columns: a shard that holds what a pass wants is
left alone, so an interrupted pass is taken up where it ended.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import auto as tqdm

from calm_jax.data import corpus
from calm_jax.decode import generation
from calm_jax.dump import partial
from calm_jax.records import contracts


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
  """Examples in the order of the dump, cut into shards and batches.

  Attributes:
    generator: the model.
    examples: examples of similar length share a batch.
    tokens: [examples, length], their inputs.
    thresholds: [G], all that are asked for.
    per_pass: thresholds of one pass.
    per_shard: examples of a shard.
    rows: examples x thresholds of one batch.
  """

  generator: generation.TextGenerator
  examples: Sequence[corpus.Example]
  tokens: np.ndarray
  thresholds: tuple[float, ...]
  per_pass: int
  per_shard: int
  rows: int

  @property
  def per_batch(self) -> int:
    return max(1, self.rows // self.per_pass)

  def shards(self) -> Iterator[slice]:
    return _slices(slice(0, len(self.examples)), self.per_shard)

  def batches(self, shard: slice) -> Iterator[slice]:
    return _slices(shard, self.per_batch)


def run_pass(
  work: Work, unfinished: partial.PartialDump, done: int, title: str
) -> None:
  """Brings all shards to their first `done` thresholds; `title` names it."""
  if work.per_pass < len(work.thresholds):
    title += f', down to threshold {work.thresholds[done - 1]:g}'
  taken_up = 0
  with tqdm.tqdm(
    total=len(work.examples), desc=title, unit='example'
  ) as progress:
    for index, shard in enumerate(work.shards()):
      dump = unfinished.shard(index)
      if dump is None or dump.num_thresholds < done:
        unfinished.put(index, _grown(work, shard, dump, done))
      else:
        taken_up += shard.stop - shard.start
        progress.set_postfix_str(f'{taken_up} taken up from before')
      progress.update(shard.stop - shard.start)


def read(
  work: Work, unfinished: partial.PartialDump, done: int
) -> contracts.Dump:
  """All examples at the first `done` thresholds, which all shards hold."""
  parts = (unfinished.shard(i) for i, _ in enumerate(work.shards()))
  return contracts.Dump.concatenate([x.first_thresholds(done) for x in parts])


def _grown(
  work: Work, shard: slice, dump: contracts.Dump | None, done: int
) -> contracts.Dump:
  """The shard with the thresholds that it lacks of the first `done`."""
  first = 0 if dump is None else dump.num_thresholds
  for start in range(first, done, work.per_pass):
    thresholds = work.thresholds[start : min(start + work.per_pass, done)]
    batches = [_generate(work, x, thresholds) for x in work.batches(shard)]
    arrays = {
      name: np.concatenate([batch[name] for batch in batches])
      for name in batches[0]
    }
    if dump is not None:
      dump = dump.with_thresholds(arrays)
      continue
    examples = work.examples[shard]
    dump = contracts.Dump(
      example_ids=np.array([x.example_id for x in examples]),
      sources=np.array([x.inputs for x in examples]),
      references=np.array([x.targets for x in examples]),
      **arrays,
    )
  return dump


def _generate(
  work: Work, batch: slice, thresholds: Sequence[float]
) -> dict[str, np.ndarray]:
  """The generated arrays of a batch, by their names in `contracts.Dump`."""
  size = batch.stop - batch.start
  tokens = np.zeros((work.per_batch, work.tokens.shape[1]), np.int32)
  tokens[:size] = work.tokens[batch]
  # The last pass may have fewer thresholds; one program serves all passes.
  columns = len(thresholds)
  grid = np.pad(np.float32(thresholds), (0, work.per_pass - columns), 'edge')
  result = work.generator.generate_tokens(
    tokens, np.tile(grid, (work.per_batch, 1)), trace=True
  )

  def by_example(array, kind):
    array = np.asarray(array, kind)
    shape = (work.per_batch, work.per_pass, *array.shape[1:])
    return array.reshape(shape)[:size, :columns]

  output = by_example(result.tokens, np.int32)
  decode = work.generator.tokenizer.decode
  return {
    'predictions': np.array([[decode(row) for row in rows] for rows in output]),
    'tokens': output,
    'num_layers_used': by_example(result.num_layers_used, np.int8),
    'confidences': by_example(result.confidences, np.float32),
    'trace_confidences': by_example(result.trace_confidences, np.float32)[:, 0],
    'trace_tokens': by_example(result.trace_tokens, np.int32)[:, 0],
    'num_undefined': by_example(result.num_undefined, np.int32),
  }


def _slices(whole: slice, size: int) -> Iterator[slice]:
  for start in range(whole.start, whole.stop, size):
    yield slice(start, min(start + size, whole.stop))
