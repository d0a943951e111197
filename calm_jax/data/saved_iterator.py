"""An iterator over tf.data whose place in the data is saved with a checkpoint.

    SeqioBatches --SavedIterator--> training.loop
                              `---> checkpoint_N/train_ds-00000-of-00001

T5X's `save_dataset`: without it a resumed run reads again, and throws away, all
that was seen before, which takes hours after a long run. TensorFlow is imported
inside the functions.
"""

import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from calm_jax import errors

_log = logging.getLogger(__name__)


class SavedIterator(Iterator):
  """Elements of a dataset, from a saved place or a number of elements on.

  Args:
    dataset: a `tf.data.Dataset` that gives the same order each time.
    convert: from a NumPy element to what is given.
    skipped: elements to leave out where no place is saved.
    saved_at: a path that `save` wrote, which then counts; or None.

  Raises:
    DataError: what `save` wrote is damaged.
  """

  def __init__(
    self,
    dataset: Any,
    convert: Callable[[Any], Any],
    skipped: int = 0,
    saved_at: str | os.PathLike | None = None,
  ):
    import tensorflow as tf

    self._iterator = iter(dataset)
    self._convert = convert
    self._checkpoint = tf.train.Checkpoint(iterator=self._iterator)
    if saved_at is not None and _index_of(saved_at).is_file():
      self._restore(saved_at)
      return
    # Not `dataset.skip`: the place in that is another's.
    for _ in range(skipped):
      next(self._iterator)

  def _restore(self, saved_at: str | os.PathLike) -> None:
    try:
      self._checkpoint.read(os.fspath(saved_at)).assert_consumed()
    except Exception as error:  # TensorFlow lets many types through.
      first_line = (str(error) or type(error).__name__).splitlines()[0][:200]
      raise errors.DataError(
        f'The place in the data, {saved_at}, cannot be read ({first_line}).'
        f' Delete {_index_of(saved_at)}: the run then reads again, and throws'
        ' away, what it has seen.'
      ) from error

  def __next__(self) -> Any:
    element = next(self._iterator)
    return self._convert({name: x.numpy() for name, x in element.items()})

  def save(self, path: str | os.PathLike) -> bool:
    """Saves the place; whole or not at all, as its index is written last.

    Returns:
      False where the data cannot tell their place, as those of a Python
      generator: a resumed run then skips elements instead.
    """
    import tensorflow as tf

    try:
      self._checkpoint.write(os.fspath(path))
    except (tf.errors.OpError, ValueError) as error:
      _log.info('The place in the data is not saved: %s', error)
      return False
    return True


def _index_of(path: str | os.PathLike) -> pathlib.Path:
  return pathlib.Path(f'{os.fspath(path)}.index')
