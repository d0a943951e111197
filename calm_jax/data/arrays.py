"""Examples -> token arrays with T5X's names, in NumPy alone.

Between the corpus and `batches`, which chooses what a training step sees. The
same arrays come out of seqio's `EncDecFeatureConverter`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from calm_jax import errors
from calm_jax.data import corpus, vocabulary

TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 64}

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TokenizedExamples:
  """Examples as token rows.

  Attributes:
    example_ids: [N] ids.
    inputs: N int32 rows, each with its EOS, without padding.
    targets: N int32 rows, each with its EOS, without padding.
    truncated: how many rows lost tokens to the feature lengths.
  """

  example_ids: tuple[str, ...]
  inputs: tuple[np.ndarray, ...]
  targets: tuple[np.ndarray, ...]
  truncated: int

  def __len__(self) -> int:
    return len(self.example_ids)


def tokenize(
  examples: Sequence[corpus.Example],
  tokenizer: vocabulary.Tokenizer,
  lengths: Mapping[str, int] = TASK_FEATURE_LENGTHS,
) -> TokenizedExamples:
  """Encodes, appends EOS and truncates as `seqio.preprocessors` does.

  A truncated row keeps its EOS, as `append_eos_after_trim` makes it.

  Raises:
    ConfigError: as `checked_lengths`.
  """
  lengths = checked_lengths(lengths)
  inputs, cut_inputs = encode_rows(
    [x.inputs for x in examples], tokenizer, lengths['inputs']
  )
  targets, cut_targets = encode_rows(
    [x.targets for x in examples], tokenizer, lengths['targets']
  )
  return TokenizedExamples(
    tuple(x.example_id for x in examples),
    inputs,
    targets,
    truncated=cut_inputs + cut_targets,
  )


def checked_lengths(lengths: Mapping[str, int]) -> Mapping[str, int]:
  """TASK_FEATURE_LENGTHS as given.

  Raises:
    ConfigError: not a positive integer for each of inputs and targets.
  """
  if not isinstance(lengths, Mapping) or not all(
    type(lengths.get(name)) is int and lengths[name] > 0
    for name in ('inputs', 'targets')
  ):
    raise errors.ConfigError(
      'TASK_FEATURE_LENGTHS must give a positive integer for each of inputs and'
      f" targets, such as {{'inputs': 64, 'targets': 64}}; got {lengths!r}."
    )
  return lengths


def encode_rows(
  texts: list[str], tokenizer: vocabulary.Tokenizer, length: int
) -> tuple[tuple[np.ndarray, ...], int]:
  """Token rows with EOS, cut to `length`, and how many were cut."""
  encoded = tokenizer.encode_batch(texts)
  rows = tuple(
    np.array(row[: length - 1] + [vocabulary.EOS_ID], np.int32)
    for row in encoded
  )
  return rows, sum(len(row) >= length for row in encoded)


def to_batch(
  inputs: Sequence[np.ndarray],
  targets: Sequence[np.ndarray],
  *,
  inputs_length: int,
  targets_length: int,
  batch_size: int | None = None,
) -> Batch:
  """Pads rows into T5X's arrays; missing rows up to `batch_size` stay empty.

  Returns:
    encoder_input_tokens [batch, inputs_length], decoder_target_tokens,
    decoder_input_tokens (targets shifted right, 0 first) and
    decoder_loss_weights (float32, 1 where there is a target), each
    [batch, targets_length].
  """
  batch_size = batch_size or len(inputs)
  target_tokens = pad_rows(targets, batch_size, targets_length)
  input_tokens = np.zeros_like(target_tokens)
  input_tokens[:, 1:] = target_tokens[:, :-1]
  return {
    'encoder_input_tokens': pad_rows(inputs, batch_size, inputs_length),
    'decoder_input_tokens': input_tokens,
    'decoder_target_tokens': target_tokens,
    'decoder_loss_weights': (target_tokens > 0).astype(np.float32),
  }


def pad_rows(
  rows: Sequence[np.ndarray], batch_size: int, length: int
) -> np.ndarray:
  """Rows as [batch_size, length] int32; missing rows stay empty."""
  padded = np.zeros((batch_size, length), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded
