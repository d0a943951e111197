"""T5's pre-training objective: restore the spans that are missing from a text.

    text: Thank you for inviting me to your party last week .
  inputs: Thank you <extra_id_0> me to your party <extra_id_1> week .
 targets: <extra_id_0> for inviting <extra_id_1> last <extra_id_2>

Raffel et al. 2020, Sec. 3.1.4 and 3.3. Imports TensorFlow.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from calm_jax import errors

# So many texts are joined before they are cut, as T5 does.
_NUM_TEXTS = 128


def raw_length(
  inputs_length: int,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
) -> tuple[int, int]:
  """(tokens of a text that fill `inputs_length`, length of their targets).

  Both lengths count the EOS. 512 gives 568 and 114, as in T5.
  """

  def corrupted(length: int) -> tuple[int, int]:
    num_noise, num_spans = _counts(
      length, noise_density, mean_noise_span_length
    )
    return length - num_noise + num_spans + 1, num_noise + num_spans + 1

  length = max(inputs_length // 2, 2)
  while corrupted(length + 1)[0] <= inputs_length:
    length += 1
  return length, corrupted(length)[1]


def span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  *,
  noise_density: float = 0.15,
  mean_noise_span_length: float = 3.0,
  num_sentinels: int = 100,
) -> tf.data.Dataset:
  """Texts of tokens (`targets`) -> inputs and targets, without EOS.

  Texts are joined and cut again, so every row but the last of a group is full.
  The spans are drawn from the seeds that seqio gives.

  Args:
    dataset: texts as tokens, under `targets`.
    sequence_length: of inputs and targets, EOS included.
    output_features: whose vocabulary's last ids are the sentinels.
    noise_density: share of the tokens that is missing.
    mean_noise_span_length: tokens of a missing span.
    num_sentinels: how many the vocabulary has.

  Raises:
    ConfigError: the targets, or the sentinels, do not suffice for the inputs.
  """
  noise = (noise_density, mean_noise_span_length)
  length, targets_length = raw_length(sequence_length['inputs'], *noise)
  if targets_length > sequence_length['targets']:
    raise errors.ConfigError(
      'TASK_FEATURE_LENGTHS must give the targets at least'
      f' {targets_length} tokens for inputs of {sequence_length["inputs"]}, got'
      f' {sequence_length["targets"]}.'
    )
  num_spans = _counts(length, *noise)[1]
  if num_spans > num_sentinels:
    raise errors.ConfigError(
      f'Inputs of {sequence_length["inputs"]} tokens need {num_spans}'
      f' sentinels, the vocabulary has {num_sentinels}. Take shorter inputs or'
      ' longer spans.'
    )
  first_sentinel = output_features['targets'].vocabulary.vocab_size - 1

  @seqio.map_over_dataset(num_seeds=2)
  def corrupt(tokens, seeds):
    mask = random_spans_noise_mask(tf.size(tokens), *noise, seeds)
    return {
      'inputs': with_sentinels(tokens, mask, first_sentinel),
      'targets': with_sentinels(tokens, ~mask, first_sentinel),
    }

  return corrupt(_segments(dataset, length))


def with_sentinels(
  tokens: tf.Tensor, mask: tf.Tensor, first_sentinel: int
) -> tf.Tensor:
  """Puts one sentinel for each run of masked tokens.

  Args:
    tokens: [length].
    mask: [length], bool.
    first_sentinel: id of the first one; the next have the ids below it.

  Returns:
    [at most length].
  """
  follows = tf.concat([[False], mask[:-1]], 0)
  starts = mask & ~follows
  number = tf.cumsum(tf.cast(starts, tokens.dtype))
  replaced = tf.where(starts, first_sentinel + 1 - number, tokens)
  return tf.boolean_mask(replaced, ~(mask & follows))


def random_spans_noise_mask(
  length: tf.Tensor,
  noise_density: float,
  mean_noise_span_length: float,
  seeds: Any,
) -> tf.Tensor:
  """[length] bool: runs to keep and runs to drop in turn, keeping first.

  The number of dropped tokens and of runs is fixed, their lengths are random.

  Args:
    length: at least 2.
    noise_density, mean_noise_span_length: as for `span_corruption`.
    seeds: two stateless seeds.
  """
  num_noise = tf.cast(
    tf.round(tf.cast(length, tf.float32) * noise_density), tf.int32
  )
  num_noise = tf.clip_by_value(num_noise, 1, length - 1)
  num_spans = tf.round(tf.cast(num_noise, tf.float32) / mean_noise_span_length)
  num_spans = tf.maximum(tf.cast(num_spans, tf.int32), 1)
  num_spans = tf.minimum(num_spans, length - num_noise)
  kept = _random_lengths(length - num_noise, num_spans, seeds[0])
  dropped = _random_lengths(num_noise, num_spans, seeds[1])
  # kept, dropped, kept, ...: the odd runs are noise.
  runs = tf.reshape(tf.stack([kept, dropped], 1), [-1])
  return tf.repeat(tf.range(2 * num_spans) % 2 == 1, runs)


def _random_lengths(total: tf.Tensor, count: tf.Tensor, seed) -> tf.Tensor:
  """[count] positive integers that sum to `total`, all such alike likely."""
  is_end = tf.range(total - 1) < count - 1
  is_end = tf.random.experimental.stateless_shuffle(is_end, seed)
  ends = tf.where(is_end)[:, 0] + 1
  bounds = tf.concat([[0], tf.cast(ends, tf.int32), [total]], 0)
  return bounds[1:] - bounds[:-1]


def _counts(
  length: int, noise_density: float, mean_noise_span_length: float
) -> tuple[int, int]:
  """(missing tokens, spans) of a text of `length` tokens."""
  num_noise = min(max(round(length * noise_density), 1), length - 1)
  return num_noise, max(round(num_noise / mean_noise_span_length), 1)


def _segments(dataset: tf.data.Dataset, length: int) -> tf.data.Dataset:
  """Joins texts and cuts them into rows of `length` tokens, or fewer."""

  def rows(texts: tf.Tensor) -> tf.data.Dataset:
    tokens = tf.boolean_mask(texts, texts != 0)  # Without their padding.
    missing = -tf.size(tokens) % length
    tokens = tf.pad(tokens, [[0, missing]])
    return tf.data.Dataset.from_tensor_slices(tf.reshape(tokens, [-1, length]))

  dataset = dataset.map(lambda features: features['targets'])
  dataset = dataset.padded_batch(_NUM_TEXTS, [None]).flat_map(rows)
  dataset = dataset.map(lambda row: tf.boolean_mask(row, row != 0))
  return dataset.filter(lambda row: tf.size(row) > 1)
