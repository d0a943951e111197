"""Batches for the loop: from the step that it begins with, where devices want
them.

    batches --> BatchReader --placed batch--> training.loop
                    `--> checkpoint_N/train_ds-*, the place in the data
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import Protocol

from calm_jax import errors
from calm_jax.parallel import partitioning
from calm_jax.training import state


class BatchSource(Protocol):
  """Batches by step number, so that resuming needs no reader state.

  What has `share_from(step, shard_id, num_shards, saved_at)` too, as
  `seqio_tasks.SeqioBatches`, is read in shares by several hosts, and its place
  is saved with each checkpoint; of others every host reads all and keeps its
  rows.
  """

  def batch_at(self, step: int) -> state.Batch:
    """The batch of one step, counted from 0."""


Batches = BatchSource | Callable[[int], Iterator[state.Batch]]


def batches_from(batches: Batches, start_step: int) -> Iterator[state.Batch]:
  """The batch of step `start_step`, counted from 0, and those after it.

  Raises:
    DataError: there is no further batch.
  """
  step = start_step
  if hasattr(batches, 'batch_at'):
    while True:
      yield batches.batch_at(step)
      step += 1
  for batch in batches(start_step):
    yield batch
    step += 1
  raise errors.DataError(
    f'Training needs a batch for every step, but the batches ended after'
    f' {step}. Let them repeat, or train for so many steps (TRAIN_STEPS).'
  )


class BatchReader(Iterator[state.Batch]):
  """An iterator of batches on their devices.

  Args:
    batches: where they come from.
    partitioner: places them.
    model_dir: of the run; its checkpoints hold the place in the data.
    start_step: of the first batch, counted from 0.
  """

  def __init__(
    self,
    batches: Batches,
    partitioner: partitioning.PjitPartitioner,
    model_dir: pathlib.Path,
    start_step: int,
  ):
    self._layout = partitioner.get_data_layout()
    self._model_dir = model_dir
    put = partitioner.put_batch
    if hasattr(batches, 'share_from'):
      shard_id, num_shards = self._layout.shard_id, self._layout.num_shards
      self._source = batches.share_from(
        start_step, shard_id, num_shards, self._place_of(start_step)
      )
      if num_shards > 1:
        put = partitioner.put_share
    else:
      self._source = batches_from(batches, start_step)
    self._placed = map(put, self._source)

  def __next__(self) -> state.Batch:
    return next(self._placed)

  def save_place(self, step: int) -> None:
    """Saves the place in the data with a checkpoint, if the data can tell it.

    Where a kill keeps it from being saved, the same batches are found by
    reading from the start.
    """
    if hasattr(self._source, 'save'):
      self._source.save(self._place_of(step))

  def _place_of(self, step: int) -> pathlib.Path:
    # T5X's name.
    name = f'{self._layout.shard_id:05}-of-{self._layout.num_shards:05}'
    return self._model_dir / f'checkpoint_{step}' / f'train_ds-{name}'
