"""Training and evaluation batches from token arrays, in NumPy alone.

Between `arrays` and the training loop. A batch is a function of (seed, step):
a run resumed at any step sees exactly what an uninterrupted one sees. Examples
are grouped by length into a few buckets, so a program compiles for few shapes
and computes little padding.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from calm_jax import errors
from calm_jax.data import arrays, corpus, tasks, vocabulary


@dataclasses.dataclass(frozen=True)
class CopyWarmup:
  """First steps on random strings copied from input to target.

  Copying is what restoration is made of, and random strings teach it without
  any distraction by language.

  Attributes:
    steps: how many steps at the beginning; 0 is none.
    min_tokens: shortest string, EOS not counted.
    max_tokens: longest string, EOS not counted.
    first_token: smallest token drawn; past the specials, the case markers
      and the bytes.
  """

  steps: int = 0
  min_tokens: int = 4
  max_tokens: int = 16
  first_token: int = 261


class Batches:
  """An endless stream of length-bucketed training batches, indexed by step.

  Every epoch visits each example once, in an order drawn from (seed, epoch);
  only the rows that do not fill a last batch of their bucket wait for another
  epoch.

  Example:
    examples = load_tokenized('docstring_restoration', 'train')
    batches = Batches(examples, batch_size=64, seed=0)
    batch = batches.batch_at(step)
  """

  def __init__(
    self,
    examples: arrays.TokenizedExamples,
    *,
    batch_size: int,
    seed: int = 0,
    boundaries: Sequence[int] = (24, 40, 64),
    short_first_steps: int = 0,
    copy_warmup: CopyWarmup = CopyWarmup(),
    vocab_size: int | None = None,
    decoder_noise: float = 0.0,
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
      vocab_size: needed by the warm-up and by noise only.
      decoder_noise: share of the decoder's input tokens that are replaced by
        random ones, so that a model learns to go on after a mistake of its own
        (word dropout, Bowman et al. 2016). Targets stay as they are.

    Raises:
      ConfigError: a number out of range.
      DataError: no bucket can fill a single batch.
    """
    boundaries = tuple(int(x) for x in boundaries)
    _check(examples, batch_size, boundaries, copy_warmup, vocab_size)
    if not 0.0 <= decoder_noise < 1.0 or (decoder_noise and not vocab_size):
      raise errors.ConfigError(
        f'decoder_noise must be in [0, 1), got {decoder_noise}, and needs a'
        f' vocab_size, got {vocab_size}.'
      )
    self.batch_size = batch_size
    self.boundaries = boundaries
    self._examples = examples
    self._seed = seed
    self._short_first_steps = short_first_steps
    self._copy_warmup = copy_warmup
    self._vocab_size = vocab_size
    self._decoder_noise = decoder_noise
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

  def batch_at(self, step: int) -> arrays.Batch:
    """The batch of `step` (0 is the first), whatever was asked before."""
    batch = self._clean_batch_at(step)
    if not self._decoder_noise:
      return batch
    # A fourth number of its own: see `_copy_batch`.
    random = np.random.default_rng((self._seed, step, 3))
    inputs = batch['decoder_input_tokens']
    noise = random.integers(
      vocabulary.EOS_ID + 1, self._vocab_size, inputs.shape, inputs.dtype
    )
    # The start symbol and the padding are 0, and stay.
    is_noise = (inputs > 0) & (
      random.random(inputs.shape) < self._decoder_noise
    )
    return {**batch, 'decoder_input_tokens': np.where(is_noise, noise, inputs)}

  def _clean_batch_at(self, step: int) -> arrays.Batch:
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
    return arrays.to_batch(
      [self._examples.inputs[i] for i in rows],
      [self._examples.targets[i] for i in rows],
      inputs_length=length,
      targets_length=length,
    )

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

  def _copy_batch(self, step: int) -> arrays.Batch:
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
    return arrays.to_batch(
      rows, rows, inputs_length=length, targets_length=length
    )


def _check(
  examples: arrays.TokenizedExamples,
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
  examples: arrays.TokenizedExamples,
  batch_size: int,
  lengths: Mapping[str, int] = arrays.TASK_FEATURE_LENGTHS,
) -> Iterator[tuple[arrays.Batch, int]]:
  """Batches in order, all of one shape, each with its count of real rows.

  The last batch is filled up with empty rows, which weigh nothing.

  Raises:
    ConfigError: as `arrays.checked_lengths`.
  """
  lengths = arrays.checked_lengths(lengths)
  for start in range(0, len(examples), batch_size):
    rows = slice(start, start + batch_size)
    batch = arrays.to_batch(
      examples.inputs[rows],
      examples.targets[rows],
      inputs_length=lengths['inputs'],
      targets_length=lengths['targets'],
      batch_size=batch_size,
    )
    yield batch, len(examples.inputs[rows])


def shuffled_words(example: corpus.Example) -> corpus.Example:
  """A restoration example of the same words in random order, by its id."""
  random = np.random.default_rng(int(example.example_id, 16))
  words = [word.strip('.,;:!?') for word in example.targets.split()]
  order = random.permutation(len(words))
  # A third of them say something twice: there a model loses its place.
  if random.random() < 1 / 3:
    start = int(random.integers(0, len(words)))
    order = np.insert(order, start, order[start : start + 3])
  text = ' '.join(words[i] for i in order)
  return corpus.Example(
    example.example_id, tasks.RESTORATION.inputs_of(text), text
  )


def load_tokenized(
  task_or_mixture: str,
  split: str,
  *,
  tokenizer: vocabulary.Tokenizer | None = None,
  lengths: Mapping[str, int] = arrays.TASK_FEATURE_LENGTHS,
  max_examples: int | None = None,
  extra_folders: Sequence[str] = (),
  shuffled_share: float = 0.0,
) -> arrays.TokenizedExamples:
  """Tokenized examples of the cached corpus, for training or evaluation.

  Args:
    task_or_mixture: a task, or `tasks.MIXTURE` for all tasks' examples.
    split: 'train', 'validation', 'calibration' or 'test'.
    tokenizer: the shipped vocabulary if None.
    lengths: greatest number of tokens of inputs and targets, EOS included.
    max_examples: keep the first ones only, which are a random sample.
    extra_folders: packages in folders of their own, for more training text
      than the installed ones give (`corpus.folder_source`). A sentence is in
      the same split wherever it was found.
    shuffled_share: so many of the sentences come once more with their words in
      random order, some of them twice, and without punctuation: nothing but
      copying helps there, and it keeps a model from losing its place. For
      restoration only.

  Raises:
    ConfigError: shuffled words of another task, or no share of them.
  """
  if not 0.0 <= shuffled_share <= 1.0 or (
    shuffled_share and task_or_mixture != tasks.RESTORATION.name
  ):
    raise errors.ConfigError(
      'shuffled_share must be in [0, 1], and 0 for other tasks than'
      f' {tasks.RESTORATION.name}, got {shuffled_share} for {task_or_mixture}.'
    )
  sources = [None, *map(corpus.folder_source, extra_folders)]
  # By id: the same target, found again, is one example.
  found = {
    (task, example.example_id): example
    for source in reversed(sources)
    for task in tasks.task_names(task_or_mixture)
    for example in corpus.load_corpus(task, split, source=source)
  }
  examples = sorted(found.values(), key=lambda x: x.example_id)[:max_examples]
  count = int(shuffled_share * len(examples))
  examples += [shuffled_words(example) for example in examples[:count]]
  return arrays.tokenize(
    examples, tokenizer or vocabulary.default_tokenizer(), lengths
  )
