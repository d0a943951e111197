"""Texts and prompts from users as checked token rows.

Examples of tasks become rows in `arrays`, which trusts them.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from calm_jax import errors
from calm_jax.data import arrays, vocabulary


def input_rows(
  texts: Sequence[str], tokenizer: vocabulary.Tokenizer, length: int
) -> np.ndarray:
  """[texts, length] int32, each row with its EOS and padded with 0.

  Warns of texts that are cut, as from the caller's caller.

  Args:
    texts: inputs that carry their prefix.
    tokenizer: the model's vocabulary.
    length: longer inputs are truncated.

  Raises:
    DataError: a text is empty or no valid Unicode.
  """
  for i, text in enumerate(texts):
    if not text.strip():
      raise errors.DataError(
        f'Every text must hold at least one character; text {i + 1} of'
        f' {len(texts)} is empty.'
      )
  _check_unicode('text', texts)
  rows, cut = arrays.encode_rows(texts, tokenizer, length)
  if cut:
    warnings.warn(
      f'{cut} of {len(texts)} texts are longer than {length} tokens; the rest'
      ' of them is ignored.',
      stacklevel=3,
    )
  return arrays.pad_rows(rows, len(rows), length)


def prompt_rows(
  prompts: Sequence[str],
  tokenizer: vocabulary.Tokenizer,
  *,
  num_texts: int,
  eos_id: int,
  max_decode_length: int,
) -> np.ndarray:
  """[prompts, longest + 1] int32, without EOS: the model goes on from there.

  Args:
    prompts: how each output begins; '' for no prompt.
    tokenizer: the model's vocabulary.
    num_texts: there must be as many prompts.
    eos_id: the token that ends an output.
    max_decode_length: longest output, which a prompt must not fill.

  Raises:
    ConfigError: another number of prompts, one that holds the eos_id, or one
      that leaves no room.
    DataError: a prompt is no valid Unicode.
  """
  if len(prompts) != num_texts:
    raise errors.ConfigError(
      f'There must be one prompt for each of the {num_texts} texts, got'
      f' {len(prompts)}.'
    )
  _check_unicode('prompt', prompts)
  rows = [np.array(tokenizer.encode(prompt), np.int32) for prompt in prompts]
  for prompt, row in zip(prompts, rows, strict=True):
    if eos_id in row:
      raise errors.ConfigError(
        f'A prompt must not hold the token {eos_id}'
        f' ({tokenizer.piece(eos_id)}), which ends outputs; got {prompt!r}.'
      )
  longest = max(map(len, rows), default=0)
  if longest >= max_decode_length:
    raise errors.ConfigError(
      f'A prompt must be shorter than the longest output of'
      f' {max_decode_length} tokens, got {longest}.'
    )
  return arrays.pad_rows(rows, len(rows), longest + 1)


def _check_unicode(what: str, texts: Sequence[str]) -> None:
  """Raises DataError for lone surrogates: bytes that were not UTF-8."""
  for i, text in enumerate(texts):
    if any('\ud800' <= x <= '\udfff' for x in text):
      raise errors.DataError(
        f'Every {what} must be valid Unicode; {what} {i + 1} of {len(texts)}'
        ' holds bytes that were not UTF-8.'
      )
