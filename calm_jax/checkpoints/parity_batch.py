"""One batch through an imported model: numbers to compare with the original.

    fixed text -> ids -> logits -> loss per token, sums

A mix-up in an import (a transposed kernel, logits that are not scaled, another
vocabulary) leaves all shapes right, and shows here at once. The text is the
example of the T5 paper (Raffel et al. 2020, Fig. 2), in the form that T5 was
pretrained on: a trained model is far better at it than a guess.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import errors
from calm_jax.early_exit.measures import classifiers
from calm_jax.t5 import network

EOS_ID = 1
_INPUTS = ('Thank you', ' me to your party', ' week.')
_TARGETS = ('', ' for inviting', ' last', '')
_NUM_SENTINELS = 100


class Tokenizer(Protocol):
  """What this module needs of `data.vocabulary.Tokenizer`."""

  vocab_size: int

  def encode(self, text: str) -> list[int]:
    """Ids without EOS."""

  def piece(self, token: int) -> str:
    """One piece as text."""


@dataclasses.dataclass(frozen=True)
class Batch:
  """One row of tokens.

  Attributes:
    inputs: ids of the source, EOS included.
    targets: ids of the target, EOS included.
    has_sentinels: whether it is the pretraining task; else the target is the
      source.
  """

  inputs: tuple[int, ...]
  targets: tuple[int, ...]
  has_sentinels: bool


@dataclasses.dataclass(frozen=True)
class Outputs:
  """What the model computes of a batch.

  Attributes:
    loss: mean cross-entropy per target token, without z_loss; nats.
    logits_sum: sum of all logits, summed in float64.
    logits_magnitude: sum of their absolute values.
    predicted: most probable id at each target position.
  """

  loss: float
  logits_sum: float
  logits_magnitude: float
  predicted: tuple[int, ...]


def make_batch(tokenizer: Tokenizer | None, vocab_size: int) -> Batch:
  """The batch for a vocabulary; ids 3, 4, ... where there is none.

  Args:
    tokenizer: of the model, if it is known.
    vocab_size: rows of the embedding.
  """
  if tokenizer is None:
    ids = tuple(x for x in range(3, 15) if x < vocab_size)
    return Batch((*ids, EOS_ID), (*ids, EOS_ID), has_sentinels=False)
  first = _first_sentinel(tokenizer, vocab_size)
  if first is None:
    ids = tuple(tokenizer.encode(' for inviting me to your party last week.'))
    return Batch((*ids, EOS_ID), (*ids, EOS_ID), has_sentinels=False)
  return Batch(
    _joined(tokenizer, _INPUTS, first),
    _joined(tokenizer, _TARGETS, first),
    has_sentinels=True,
  )


def run(config: network.T5Config, params: Any, batch: Batch) -> Outputs:
  """Runs the network once, without dropout, in float32.

  Raises:
    NumericError: a logit is not finite.
  """
  params = {name: params[name] for name in params if name != classifiers.PARAMS}
  logits = np.asarray(_logits_fn(config)(params, *_arrays(batch)), np.float64)
  logits = logits[0]
  if not np.isfinite(logits).all():
    raise errors.NumericError(
      'The imported model gives logits that are not finite; its weights are'
      ' damaged.'
    )
  largest = logits.max(axis=-1)
  log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=-1))
  targets = np.array(batch.targets)
  losses = log_sum - logits[np.arange(len(targets)), targets]
  return Outputs(
    loss=float(losses.mean()),
    logits_sum=float(logits.sum()),
    logits_magnitude=float(np.abs(logits).sum()),
    predicted=tuple(logits.argmax(axis=-1).tolist()),
  )


@functools.lru_cache(maxsize=1)
def _logits_fn(config: network.T5Config):
  module = network.Transformer(config.replace(dtype=jnp.float32))

  @jax.jit
  def logits(params, encoder_inputs, decoder_inputs, decoder_targets):
    return module.apply(
      {'params': params},
      encoder_inputs,
      decoder_inputs,
      decoder_targets,
      enable_dropout=False,
    )

  return logits


def _arrays(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  targets = np.array([batch.targets], np.int32)
  decoder_inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
  return np.array([batch.inputs], np.int32), decoder_inputs, targets


def _first_sentinel(tokenizer: Tokenizer, vocab_size: int) -> int | None:
  """Id of <extra_id_0>, the last of 100; None if there are none."""
  last = tokenizer.vocab_size - 1
  if 'extra_id_' in tokenizer.piece(last):  # mT5's file holds them.
    return last
  # T5's lie above its pieces, and the embedding is filled up to 128 rows.
  with_sentinels = tokenizer.vocab_size + _NUM_SENTINELS
  if with_sentinels <= vocab_size < with_sentinels + 128:
    return with_sentinels - 1
  return None


def _joined(tokenizer, parts, first_sentinel: int) -> tuple[int, ...]:
  ids = []
  for i, part in enumerate(parts):
    if i:
      ids.append(first_sentinel - (i - 1))
    ids += tokenizer.encode(part) if part else []
  return (*ids, EOS_ID)
