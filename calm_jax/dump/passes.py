"""Passes over a split: each generates some thresholds for all examples.

Below `runner`. Shards grow by columns: a shard that holds what a pass wants is
left alone, so an interrupted pass is taken up where it ended.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from calm_jax.data import corpus
from calm_jax.decode import generation
from calm_jax.dump import partial
from calm_jax.records import contracts, unfinished


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
  """Examples in the order of the dump, cut into shards and batches.

  Attributes:
    job: what is dumped, and how it is cut.
    generator: the model.
    examples: examples of similar length share a batch.
    tokens: [examples, length], their inputs.
  """

  job: partial.Job
  generator: generation.TextGenerator
  examples: Sequence[corpus.Example]
  tokens: np.ndarray

  @property
  def thresholds(self) -> tuple[float, ...]:
    return self.job.header.thresholds

  @property
  def per_pass(self) -> int:
    return self.job.thresholds_per_pass

  @property
  def per_batch(self) -> int:
    return max(1, self.job.rows // self.per_pass)

  def shards(self) -> Iterator[slice]:
    whole = slice(0, len(self.examples))
    return unfinished.slices(whole, self.job.examples_per_shard)

  def batches(self, shard: slice) -> Iterator[slice]:
    return unfinished.slices(shard, self.per_batch)


def run_pass(
  work: Work, there: partial.PartialDump, done: int, title: str
) -> None:
  """Brings all shards to their first `done` thresholds; `title` names it."""
  if work.per_pass < len(work.thresholds):
    title += f', down to threshold {work.thresholds[done - 1]:g}'

  def is_finished(index: int) -> bool:
    dump = there.shard(index)
    return dump is not None and dump.num_thresholds >= done

  for index, shard in unfinished.to_do(work.shards(), is_finished, title):
    there.put(index, _grown(work, shard, there.shard(index), done))


def read(work: Work, there: partial.PartialDump, done: int) -> contracts.Dump:
  """All examples at the first `done` thresholds, which all shards hold."""
  parts = (there.shard(i) for i, _ in enumerate(work.shards()))
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
  grids = np.tile(grid, (work.per_batch, 1))
  result = work.generator.generate_tokens(
    work.generator.request(tokens, grids, trace=True)
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
