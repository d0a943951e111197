"""Token arrays and training batches from examples, in NumPy alone.

Between the corpus and the training loop. A batch is a function of (seed, step):
a run resumed at any step sees exactly what an uninterrupted one sees. Examples
are grouped by length into a few buckets, so a program compiles for few shapes
and computes little padding.
"""

import dataclasses
from collections.abc import Iterator, Sequence

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
  lengths: dict[str, int] = TASK_FEATURE_LENGTHS,
) -> TokenizedExamples:
  """Encodes, appends EOS and truncates as `seqio.preprocessors` does.

  A truncated row keeps its EOS, as `append_eos_after_trim` makes it.
  """
  inputs, cut_inputs = _rows(
    [x.inputs for x in examples], tokenizer, lengths['inputs']
  )
  targets, cut_targets = _rows(
    [x.targets for x in examples], tokenizer, lengths['targets']
  )
  return TokenizedExamples(
    tuple(x.example_id for x in examples),
    inputs,
    targets,
    truncated=cut_inputs + cut_targets,
  )


def _rows(
  texts: list[str], tokenizer: vocabulary.Tokenizer, length: int
) -> tuple[tuple[np.ndarray, ...], int]:
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
  target_tokens = _pad(targets, batch_size, targets_length)
  input_tokens = np.zeros_like(target_tokens)
  input_tokens[:, 1:] = target_tokens[:, :-1]
  return {
    'encoder_input_tokens': _pad(inputs, batch_size, inputs_length),
    'decoder_input_tokens': input_tokens,
    'decoder_target_tokens': target_tokens,
    'decoder_loss_weights': (target_tokens > 0).astype(np.float32),
  }


def _pad(
  rows: Sequence[np.ndarray], batch_size: int, length: int
) -> np.ndarray:
  padded = np.zeros((batch_size, length), np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded


@dataclasses.dataclass(frozen=True)
class CopyWarmup:
  """First steps on random strings copied from input to target.

  Copying is what restoration is made of, and random strings teach it without
  any distraction by language.

  Attributes:
    steps: how many steps at the beginning; 0 is none.
    min_tokens: shortest string, EOS not counted.
    max_tokens: longest string, EOS not counted.
    first_token: smallest token drawn; past the specials and the bytes.
  """

  steps: int = 0
  min_tokens: int = 4
  max_tokens: int = 16
  first_token: int = 259


class Batches:
  """An endless stream of length-bucketed training batches, indexed by step.

  Every epoch visits each example once, in an order drawn from (seed, epoch);
  only the rows that do not fill a last batch of their bucket wait for another
  epoch.

  Example:
    batches = Batches(tokenize(examples, tokenizer), batch_size=64, seed=0)
    for step, batch in batches.starting_at(step): ...
  """

  def __init__(
    self,
    examples: TokenizedExamples,
    *,
    batch_size: int,
    seed: int = 0,
    boundaries: Sequence[int] = (24, 40, 64),
    short_first_steps: int = 0,
    copy_warmup: CopyWarmup = CopyWarmup(),
    vocab_size: int | None = None,
  ):
    """Sorts the examples into buckets.

    Args:
      examples: token rows; no longer than the last boundary.
      batch_size: rows in each batch, the same for all buckets.
      seed: of the order, and of the warm-up's strings.
      boundaries: ascending padded lengths. A batch has the smallest length that
        holds its longest input and target.
      short_first_steps: until this step only the first bucket is used.
      copy_warmup: first steps on copied random strings.
      vocab_size: needed by the warm-up only.

    Raises:
      ConfigError: a number out of range.
      DataError: no bucket can fill a single batch.
    """
    boundaries = tuple(int(x) for x in boundaries)
    _check(examples, batch_size, boundaries, copy_warmup, vocab_size)
    self.batch_size = batch_size
    self.boundaries = boundaries
    self._examples = examples
    self._seed = seed
    self._short_first_steps = short_first_steps
    self._copy_warmup = copy_warmup
    self._vocab_size = vocab_size
    lengths = np.array(
      [
        max(len(x), len(y))
        for x, y in zip(examples.inputs, examples.targets, strict=True)
      ]
    )
    bucket_of = np.searchsorted(boundaries, lengths)
    self._buckets = [
      np.flatnonzero(bucket_of == i) for i in range(len(boundaries))
    ]
    self._cached_plan: tuple[tuple, list] | None = None
    for short_only in {False, bool(short_first_steps)}:
      if not self._batches_per_epoch(short_only):
        raise errors.DataError(
          f'Training needs at least one full batch of {batch_size} examples'
          f' of similar length; the {len(examples)} examples fill none.'
          ' Choose a smaller batch size.'
        )

  def __len__(self) -> int:
    """Batches per epoch after the curriculum's first steps."""
    return self._batches_per_epoch(short_only=False)

  def batch_at(self, step: int) -> Batch:
    """The batch of `step` (0 is the first), whatever was asked before."""
    if step < self._copy_warmup.steps:
      return self._copy_batch(step)
    step -= self._copy_warmup.steps
    short_steps = max(self._short_first_steps - self._copy_warmup.steps, 0)
    short_only = step < short_steps
    if not short_only:
      step -= short_steps
    epoch, place = divmod(step, self._batches_per_epoch(short_only))
    bucket, rows = self._plan(epoch, short_only)[place]
    length = self.boundaries[bucket]
    return to_batch(
      [self._examples.inputs[i] for i in rows],
      [self._examples.targets[i] for i in rows],
      inputs_length=length,
      targets_length=length,
    )

  def starting_at(self, step: int = 0) -> Iterator[tuple[int, Batch]]:
    """Endless (step, batch) pairs from `step` on."""
    while True:
      yield step, self.batch_at(step)
      step += 1

  def _batches_per_epoch(self, short_only: bool) -> int:
    buckets = self._buckets[:1] if short_only else self._buckets
    return sum(len(rows) // self.batch_size for rows in buckets)

  def _plan(self, epoch: int, short_only: bool) -> list:
    """(bucket, rows [batch_size]) of every batch of an epoch, shuffled."""
    key = (epoch, short_only)
    if self._cached_plan is None or self._cached_plan[0] != key:
      random = np.random.default_rng((self._seed, epoch, short_only))
      plan = []
      for bucket, rows in enumerate(self._buckets[: 1 if short_only else None]):
        full = len(rows) - len(rows) % self.batch_size
        rows = random.permutation(rows)[:full]
        plan.extend((bucket, x) for x in rows.reshape(-1, self.batch_size))
      order = random.permutation(len(plan))
      self._cached_plan = (key, [plan[i] for i in order])
    return self._cached_plan[1]

  def _copy_batch(self, step: int) -> Batch:
    warmup = self._copy_warmup
    # A third number of its own keeps this stream apart from every epoch's.
    random = np.random.default_rng((self._seed, step, 2))
    counts = random.integers(
      warmup.min_tokens, warmup.max_tokens + 1, self.batch_size
    )
    rows = [
      np.append(
        random.integers(warmup.first_token, self._vocab_size, count),
        vocabulary.EOS_ID,
      )
      for count in counts
    ]
    length = self.boundaries[
      np.searchsorted(self.boundaries, warmup.max_tokens + 1)
    ]
    return to_batch(rows, rows, inputs_length=length, targets_length=length)


def _check(
  examples: TokenizedExamples,
  batch_size: int,
  boundaries: tuple[int, ...],
  warmup: CopyWarmup,
  vocab_size: int | None,
) -> None:
  if batch_size < 1:
    raise errors.ConfigError(
      f'The batch size must be at least 1, got {batch_size}.'
    )
  if not boundaries or list(boundaries) != sorted(set(boundaries)):
    raise errors.ConfigError(
      f'Bucket boundaries must ascend, got {boundaries}.'
    )
  longest = max(map(len, examples.inputs + examples.targets), default=0)
  if longest > boundaries[-1]:
    raise errors.ConfigError(
      f'The last bucket boundary must hold the longest row of {longest}'
      f' tokens, got {boundaries[-1]}. Raise it, or lower'
      ' TASK_FEATURE_LENGTHS.'
    )
  if not warmup.steps:
    return
  if vocab_size is None or vocab_size <= warmup.first_token:
    raise errors.ConfigError(
      'A copying warm-up needs a vocab_size above its first token'
      f' {warmup.first_token}, got {vocab_size}.'
    )
  if not 1 <= warmup.min_tokens <= warmup.max_tokens < boundaries[-1]:
    raise errors.ConfigError(
      'A copying warm-up needs 1 <= min_tokens <= max_tokens <'
      f' {boundaries[-1]}, got {warmup.min_tokens} and {warmup.max_tokens}.'
    )


def eval_batches(
  examples: TokenizedExamples,
  batch_size: int,
  lengths: dict[str, int] = TASK_FEATURE_LENGTHS,
) -> Iterator[tuple[Batch, int]]:
  """Batches in order, all of one shape, each with its count of real rows.

  The last batch is filled up with empty rows, which weigh nothing.
  """
  for start in range(0, len(examples), batch_size):
    rows = slice(start, start + batch_size)
    batch = to_batch(
      examples.inputs[rows],
      examples.targets[rows],
      inputs_length=lengths['inputs'],
      targets_length=lengths['targets'],
      batch_size=batch_size,
    )
    yield batch, len(examples.inputs[rows])


def load_tokenized(
  task_or_mixture: str,
  split: str,
  *,
  tokenizer: vocabulary.Tokenizer | None = None,
  lengths: dict[str, int] = TASK_FEATURE_LENGTHS,
  max_examples: int | None = None,
) -> TokenizedExamples:
  """Tokenized examples of the cached corpus, for training or evaluation.

  Args:
    task_or_mixture: a task, or `tasks.MIXTURE` for all tasks' examples.
    split: 'train', 'validation', 'calibration' or 'test'.
    tokenizer: the shipped vocabulary if None.
    lengths: greatest number of tokens of inputs and targets, EOS included.
    max_examples: keep the first ones only, which are a random sample.
  """
  from calm_jax.data import tasks

  examples = [
    example
    for task in tasks.task_names(task_or_mixture)
    for example in corpus.load_corpus(task, split)
  ]
  examples = sorted(examples, key=lambda x: x.example_id)[:max_examples]
  return tokenize(
    examples, tokenizer or vocabulary.default_tokenizer(), lengths
  )
