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
  any distraction by language. A model that never met the same words twice in a
  string finds its place by the last word that it wrote, and loops where that
  word comes again; so n-grams can be made to come again, and some strings can
  stay in every later batch.

  Attributes:
    steps: how many steps at the beginning; 0 is none.
    min_tokens: shortest string, EOS not counted.
    max_tokens: longest string, EOS not counted.
    first_token: smallest token drawn; past the specials, the case markers
      and the bytes.
    repeated_share: share of the strings in which n-grams come again.
    later_share: share of the rows of every later batch that are such strings,
      as long as the batch's bucket allows.
  """

  steps: int = 0
  min_tokens: int = 4
  max_tokens: int = 16
  first_token: int = 261
  repeated_share: float = 0.0
  later_share: float = 0.0

  def string(
    self, random: np.random.Generator, max_tokens: int, vocab_size: int
  ) -> np.ndarray:
    """A string of at most `max_tokens` tokens, and EOS.

    Args:
      random: decides on everything.
      max_tokens: in place of the attribute.
      vocab_size: above the greatest token.
    """
    count = random.integers(min(self.min_tokens, max_tokens), max_tokens + 1)
    tokens = random.integers(self.first_token, vocab_size, count)
    if self.repeated_share and random.random() < self.repeated_share:
      tokens = _with_repeated_ngrams(random, tokens)
    return np.append(tokens, vocabulary.EOS_ID)


def _with_repeated_ngrams(
  random: np.random.Generator, tokens: np.ndarray
) -> np.ndarray:
  """The string with spans overwritten by spans of itself, one or more times."""
  tokens = tokens.copy()
  for _ in range(random.integers(1, 2 + len(tokens) // 6)):
    size = random.integers(1, 2 + min(len(tokens) // 3, 5))
    if size <= len(tokens):
      start, place = random.integers(0, len(tokens) - size + 1, 2)
      tokens[place : place + size] = tokens[start : start + size].copy()
  return tokens


@dataclasses.dataclass(frozen=True)
class Detours:
  """Rows whose decoder has begun to loop, and is to find out again.

  Where a token comes twice in a target, at p and q, a model may go on after q
  as after p. Here it did so once or twice: tokens p + 1 to q stand in the
  target again after q, without weight, and what counts is that it then goes on
  with q + 1. A model that has never seen a loop of its own stays in it.

  Attributes:
    share: of the rows that have room for it and a token twice.
    longest: most tokens from p to q.

  Raises:
    ConfigError: share is not in [0, 1].
  """

  share: float = 0.0
  longest: int = 24

  def __post_init__(self):
    if not 0.0 <= self.share <= 1.0:
      raise errors.ConfigError(
        f'The share must be in [0, 1], got {self.share}.'
      )

  def detour(
    self, random: np.random.Generator, target: np.ndarray, length: int
  ) -> tuple[np.ndarray, slice] | None:
    """A longer target and the place of what is not to be learned, or None.

    Args:
      random: decides on everything.
      target: tokens with EOS.
      length: greatest length of the result.
    """
    longest = min(self.longest, length - len(target))
    equal = target[:, None] == target[None, :]
    gap = np.arange(len(target))[None, :] - np.arange(len(target))[:, None]
    first, second = np.nonzero(equal & (gap > 0) & (gap <= longest))
    if not len(first):
      return None
    i = random.integers(len(first))
    p, q = first[i], second[i]
    size = q - p
    rounds = 1 + int(random.random() < 0.3 and 2 * size <= longest)
    again = np.tile(target[p + 1 : q + 1], rounds)
    longer = np.concatenate([target[: q + 1], again, target[q + 1 :]])
    return longer, slice(q + 1, q + 1 + len(again))


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
    detours: Detours = Detours(),  # noqa: B008
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
      detours: loops in the decoder's input.

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
    self._detours = detours
    self._num_strings = round(copy_warmup.later_share * batch_size)
    self._num_sentences = batch_size - self._num_strings
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
    if self._detours.share:
      batch = self._with_detours(batch, step)
    if not self._decoder_noise:
      return batch
    # A third number of its own: see `_strings`.
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

  def _with_detours(self, batch: arrays.Batch, step: int) -> arrays.Batch:
    # A third number of its own: see `_strings`.
    random = np.random.default_rng((self._seed, step, 4))
    targets = [row[row > 0] for row in batch['decoder_target_tokens']]
    length = batch['decoder_target_tokens'].shape[1]
    unlearned = {}
    for i in range(self.batch_size):
      if random.random() < self._detours.share:
        found = self._detours.detour(random, targets[i], length)
        if found is not None:
          targets[i], unlearned[i] = found
    inputs = batch['encoder_input_tokens']
    batch = arrays.to_batch(
      [row[row > 0] for row in inputs],
      targets,
      inputs_length=inputs.shape[1],
      targets_length=length,
    )
    for i, place in unlearned.items():
      batch['decoder_loss_weights'][i, place] = 0.0
    return batch

  def _clean_batch_at(self, step: int) -> arrays.Batch:
    whole_step = step
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
    strings = self._strings(whole_step, self._num_strings, length - 1)
    return arrays.to_batch(
      [self._examples.inputs[i] for i in rows] + strings,
      [self._examples.targets[i] for i in rows] + strings,
      inputs_length=length,
      targets_length=length,
    )

  def _batches_per_epoch(self, short_only: bool) -> int:
    buckets = self._buckets[:1] if short_only else self._buckets
    return sum(len(rows) // self._num_sentences for rows in buckets)

  def _plan(self, epoch: int, short_only: bool) -> list:
    """(bucket, rows of sentences) of every batch of an epoch, shuffled."""
    key = (epoch, short_only)
    if self._cached_plan is None or self._cached_plan[0] != key:
      random = np.random.default_rng((self._seed, epoch, short_only))
      plan = []
      for bucket, rows in enumerate(self._buckets[: 1 if short_only else None]):
        full = len(rows) - len(rows) % self._num_sentences
        rows = random.permutation(rows)[:full]
        plan.extend((bucket, x) for x in rows.reshape(-1, self._num_sentences))
      order = random.permutation(len(plan))
      self._cached_plan = (key, [plan[i] for i in order])
    return self._cached_plan[1]

  def _copy_batch(self, step: int) -> arrays.Batch:
    warmup = self._copy_warmup
    rows = self._strings(step, self.batch_size, warmup.max_tokens)
    length = self.boundaries[
      np.searchsorted(self.boundaries, warmup.max_tokens + 1)
    ]
    return arrays.to_batch(
      rows, rows, inputs_length=length, targets_length=length
    )

  def _strings(self, step: int, count: int, max_tokens: int):
    # A third number of its own keeps this stream apart from every epoch's.
    random = np.random.default_rng((self._seed, step, 2))
    return [
      self._copy_warmup.string(random, max_tokens, self._vocab_size)
      for _ in range(count)
    ]


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
  if not 0.0 <= warmup.later_share < 1.0:
    raise errors.ConfigError(
      "A copying warm-up's later_share must be in [0, 1), got"
      f' {warmup.later_share}.'
    )
  if not warmup.steps and not warmup.later_share:
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


def words_said_again(example: corpus.Example) -> corpus.Example:
  """A restoration example in which a few of its words come again, by its id.

  Punctuation stays with the words.
  """
  random = np.random.default_rng((int(example.example_id, 16), 1))
  words = example.targets.split()
  for _ in range(int(random.integers(1, 3))):
    size = int(random.integers(1, 6))
    start = int(random.integers(0, max(len(words) - size, 1)))
    place = int(random.integers(1, len(words) + 1))
    words[place:place] = words[start : start + size]
  text = ' '.join(words)
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
  said_again_share: float = 0.0,
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
    said_again_share: so many come once more with a few of their words said
      again. For restoration only.

  Raises:
    ConfigError: shuffled or repeated words of another task, or no share.
  """
  for name, share in {
    'shuffled_share': shuffled_share,
    'said_again_share': said_again_share,
  }.items():
    if not 0.0 <= share <= 1.0 or (
      share and task_or_mixture != tasks.RESTORATION.name
    ):
      raise errors.ConfigError(
        f'{name} must be in [0, 1], and 0 for other tasks than'
        f' {tasks.RESTORATION.name}, got {share} for {task_or_mixture}.'
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
  whole = tuple(examples)
  count = int(shuffled_share * len(whole))
  examples += map(shuffled_words, whole[:count])
  # From the other end: not the same sentences.
  count = int(said_again_share * len(whole))
  examples += map(words_said_again, whole[len(whole) - count :])
  return arrays.tokenize(
    examples, tokenizer or vocabulary.default_tokenizer(), lengths
  )
