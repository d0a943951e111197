"""A data set of TFDS whose held-out examples are divided by a stable hash.

Imports TensorFlow, so `calm_tasks` imports this only when examples are read.
"""

from typing import Any

import seqio
import tensorflow as tf

from calm_jax import errors
from calm_jax.data import splits, text_tasks


class HeldOutSource(seqio.TfdsDataSource):
  """TFDS' train split as it is; what it holds out in our three splits.

  Every held-out example carries `example_id`. Data that TFDS has not prepared
  are an error: nothing is downloaded in the middle of a run.
  """

  def __init__(
    self,
    tfds_name: str,
    held_out: str,
    identity: tuple[str, ...],
    tfds_data_dir: str | None = None,
  ):
    """Reads nothing yet.

    Args:
      tfds_name: data set, configuration and version.
      held_out: TFDS splits that are divided, joined by '+'.
      identity: features whose texts are hashed.
      tfds_data_dir: where the data are; TFDS' default if None.
    """
    self._identity = identity
    self._data_dir = tfds_data_dir
    super().__init__(
      tfds_name,
      tfds_data_dir=tfds_data_dir,
      splits={
        split: 'train' if split == 'train' else held_out
        for split in splits.SPLITS
      },
      read_only=True,
    )

  def get_dataset(self, split='train', *args, **kwargs) -> tf.data.Dataset:
    """Examples as TFDS has them.

    Raises:
      DataError: TFDS has not prepared the data.
    """
    self.check_is_prepared()
    dataset = super().get_dataset(split, *args, **kwargs)
    if split == 'train':
      return dataset
    return self._with_ids(dataset).filter(
      lambda x: _in_split(x['example_id'], split)
    )

  def identified(self, split: str) -> tf.data.Dataset:
    """The same, in TFDS' order, and with ids in the train split too."""
    dataset = self.get_dataset(split, shuffle=False)
    return self._with_ids(dataset) if split == 'train' else dataset

  def list_shards(self, split: str):
    """File names of the split; raises as `get_dataset`."""
    self.check_is_prepared()
    return super().list_shards(split)

  def num_input_examples(self, split: str) -> int | None:
    """Known for train only, before anything is read."""
    return super().num_input_examples(split) if split == 'train' else None

  def _with_ids(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    def with_id(features: dict[str, Any]) -> dict[str, Any]:
      texts = [features[name] for name in self._identity]
      example_id = tf.numpy_function(_example_id, texts, tf.string)
      return {**features, 'example_id': tf.ensure_shape(example_id, [])}

    return dataset.map(with_id, num_parallel_calls=tf.data.AUTOTUNE)

  def check_is_prepared(self) -> None:
    """Raises a DataError where TFDS has not prepared the data."""
    try:
      is_prepared = self.tfds_dataset.builder.is_prepared()
    # TFDS has many kinds of errors for data sets that it cannot find.
    except Exception as error:
      raise self._missing() from error
    if not is_prepared:
      raise self._missing()

  def _missing(self) -> errors.DataError:
    name = self.tfds_dataset.name
    where = self._data_dir or "TFDS' default folder (TFDS_DATA_DIR)"
    return errors.DataError(
      f'The data set {name} must be prepared in {where}; it is not there. Run:'
      f' tfds build {name}'
      + (f' --data_dir={self._data_dir}' if self._data_dir else '')
    )


def _example_id(*texts: bytes) -> bytes:
  decoded = (text.decode('utf-8', 'surrogateescape') for text in texts)
  return text_tasks.example_id_of(*decoded).encode()


def _in_split(example_id: tf.Tensor, split: str) -> tf.Tensor:
  def in_split(value: bytes) -> bool:
    return splits.held_out_split_of(value.decode()) == split

  return tf.ensure_shape(tf.numpy_function(in_split, [example_id], tf.bool), [])
