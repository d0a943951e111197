"""One of two processes that train together; a program.

python -m testing.two_processes SCENE INDEX PORT FOLDER
"""

import os
import pathlib
import signal
import sys

import numpy as np
from testing import copying, eight_devices

from calm_jax import errors
from calm_jax.parallel import multihost
from calm_jax.training import loop, writers


class StoppingBatches(copying.CopyingBatches):
  """Asks its own process to stop while it gives the batch of a step."""

  def __init__(self, at):
    super().__init__()
    self._at = at

  def batch_at(self, step):
    if step == self._at:
      self._at = None
      os.kill(os.getpid(), signal.SIGTERM)
    return super().batch_at(step)


class SharedBatches(copying.CopyingBatches):
  """Each process reads its rows alone."""

  def share_from(self, step, shard_id, num_shards, saved_at=None):
    del saved_at
    assert num_shards == 2
    while True:
      batch = super().batch_at(step)
      yield {k: np.split(x, 2)[shard_id] for k, x in batch.items()}
      step += 1


def refuse_differences(index):
  try:
    multihost.assert_same(
      {'version': '1', 'configuration': f'SEED = {index}'}, 'Mend it.'
    )
  except errors.ResourceError as error:
    assert 'same configuration; processes 1 of 2 differ' in str(error), error
    assert 'version' not in str(error)
  else:
    raise AssertionError('the difference was not seen')


def train_together(index, folder):
  # One copy of the parameters over both processes, taken up at step 2. Only
  # process 1 is asked to stop; both do, after the same step.
  batches = StoppingBatches(2) if index == 1 else copying.CopyingBatches()
  try:
    eight_devices.train(folder, 5, 2, batches=batches)
  except SystemExit as left:
    assert left.code == loop.SAVED_AFTER_SIGNAL
  else:
    raise AssertionError('nobody stopped')
  # From there on each process has a copy, and reads its rows alone.
  state = eight_devices.train(
    folder, 5, 1, batches=SharedBatches(), **eight_devices.SCORED
  )
  assert int(state.step) == 5
  embedding = state.params['token_embedder']['embedding']
  assert embedding.is_fully_replicated and not embedding.is_fully_addressable


def lose(index, lost):
  """Process `lost` dies; the other waits for it."""
  with multihost.leaving_together():
    multihost.barrier('before the loss')
    if index == lost:
      os._exit(9)
    # A collective sees the loss at once, a barrier after some heartbeats.
    multihost.assert_same({'step 7': '7'}, '')


def main(scene, index, port, folder):
  writers.summary_writer = lambda directory: None
  multihost.initialize(f'127.0.0.1:{port}', 2, index, 60)
  if scene == 'train':
    refuse_differences(index)
    train_together(index, folder)
    lose(index, lost=1)
  else:
    lose(index, lost=0)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4]))
