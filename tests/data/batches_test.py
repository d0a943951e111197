"""Tests of token arrays and of the resumable stream of batches."""

import subprocess
import sys

import numpy as np
import pytest

from calm_jax import errors
from calm_jax.data import arrays, batches, corpus, prose

_KEYS = [
  'encoder_input_tokens',
  'decoder_input_tokens',
  'decoder_target_tokens',
  'decoder_loss_weights',
]


@pytest.fixture(scope='module')
def examples(tokenizer, source, cache_dir):
  return arrays.tokenize(
    corpus.load_corpus(
      'docstring_restoration', 'train', source=source, cache_dir=cache_dir
    ),
    tokenizer,
  )


def _made_up(lengths) -> arrays.TokenizedExamples:
  """Rows that can be told apart: row i holds the token 10 + i."""
  rows = tuple(
    np.array([10 + i] * (length - 1) + [1], np.int32)
    for i, length in enumerate(lengths)
  )
  ids = tuple(f'{i:016x}' for i in range(len(rows)))
  return arrays.TokenizedExamples(ids, rows, rows, truncated=0)


def _row_numbers(batch) -> list[int]:
  return (batch['encoder_input_tokens'][:, 0] - 10).tolist()


def _assert_same(first, second):
  assert sorted(first) == sorted(second)
  for key in first:
    np.testing.assert_array_equal(first[key], second[key])


def test_to_batch_by_hand():
  batch = arrays.to_batch(
    [np.array([7, 8, 5, 1]), np.array([8, 1])],
    [np.array([3, 9, 1]), np.array([4, 1])],
    inputs_length=5,
    targets_length=3,
    batch_size=3,
  )
  expected = [
    [[7, 8, 5, 1, 0], [8, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
    [[0, 3, 9], [0, 4, 1], [0, 0, 0]],
    [[3, 9, 1], [4, 1, 0], [0, 0, 0]],
    [[1, 1, 1], [1, 1, 0], [0, 0, 0]],
  ]
  for key, value in zip(_KEYS, expected, strict=True):
    np.testing.assert_array_equal(batch[key], value)
  assert [batch[key].dtype for key in _KEYS] == [np.int32] * 3 + [np.float32]


def test_tokenize_appends_eos_after_truncation(tokenizer):
  ids = tokenizer.encode('the window of the server')
  text = [corpus.Example('0' * 16, 'the window of the server', 'the window')]
  whole = arrays.tokenize(text, tokenizer)
  assert whole.inputs[0].tolist() == [*ids, 1]
  assert whole.truncated == 0
  exact = {'inputs': len(ids) + 1, 'targets': 64}
  assert arrays.tokenize(text, tokenizer, exact).truncated == 0
  cut = arrays.tokenize(text, tokenizer, {'inputs': len(ids), 'targets': 64})
  assert cut.inputs[0].tolist() == [*ids[:-1], 1]
  assert cut.truncated == 1


def test_an_epoch_visits_each_example_once():
  lengths = [5] * 40 + [20] * 24 + [8] * 8
  stream = batches.Batches(
    _made_up(lengths), batch_size=8, boundaries=(10, 20), seed=3
  )
  assert len(stream) == 9
  epochs = []
  for epoch in range(2):
    seen = []
    for step in range(9 * epoch, 9 * epoch + 9):
      batch = stream.batch_at(step)
      rows = _row_numbers(batch)
      longest = max(lengths[i] for i in rows)
      length = batch['encoder_input_tokens'].shape[1]
      assert length == (10 if longest <= 10 else 20)
      assert all((lengths[i] <= 10) == (length == 10) for i in rows)
      seen.extend(rows)
    assert sorted(seen) == list(range(72))
    epochs.append(seen)
  assert epochs[0] != epochs[1]


def test_rows_that_fill_no_batch_change_with_the_epoch():
  stream = batches.Batches(_made_up([5] * 11), batch_size=4, boundaries=(10,))
  seen = [
    frozenset(
      _row_numbers(stream.batch_at(i)) + _row_numbers(stream.batch_at(j))
    )
    for i, j in ((0, 1), (2, 3), (4, 5), (6, 7))
  ]
  assert all(len(rows) == 8 for rows in seen)
  assert frozenset.union(*seen) == frozenset(range(11))


def test_a_resumed_run_sees_the_same_batches(examples):
  def make():
    return batches.Batches(
      examples,
      batch_size=16,
      seed=5,
      boundaries=(32, 64),
      short_first_steps=9,
      copy_warmup=batches.CopyWarmup(steps=4),
      vocab_size=350,
    )

  one = make()
  uninterrupted = [one.batch_at(step) for step in range(80)]
  assert len(one) < 60
  for start in (0, 3, 4, 8, 9, 40, 79):
    resumed = make()
    for step in range(start, 80):
      _assert_same(resumed.batch_at(step), uninterrupted[step])
  # Asking backwards makes no difference either.
  for step in reversed(range(80)):
    _assert_same(one.batch_at(step), uninterrupted[step])


def test_another_seed_gives_another_order(examples):
  first = batches.Batches(examples, batch_size=16, seed=0).batch_at(0)
  second = batches.Batches(examples, batch_size=16, seed=1).batch_at(0)
  assert first['encoder_input_tokens'].tobytes() != (
    second['encoder_input_tokens'].tobytes()
  )


def test_short_sentences_first():
  stream = batches.Batches(
    _made_up([5] * 16 + [20] * 160),
    batch_size=8,
    boundaries=(10, 20),
    short_first_steps=6,
  )
  lengths = [
    stream.batch_at(step)['encoder_input_tokens'].shape[1]
    for step in range(6 + len(stream))
  ]
  assert lengths[:6] == [10] * 6
  assert sorted(lengths[6:]) == [10] * 2 + [20] * 20


def test_copy_warmup(examples):
  warmup = batches.CopyWarmup(
    steps=50, min_tokens=2, max_tokens=5, first_token=261
  )
  stream = batches.Batches(
    examples, batch_size=32, copy_warmup=warmup, vocab_size=350
  )
  plain = batches.Batches(examples, batch_size=32)
  counts, tokens = set(), set()
  for step in range(50):
    batch = stream.batch_at(step)
    inputs = batch['encoder_input_tokens']
    assert inputs.shape == (32, 24)
    np.testing.assert_array_equal(inputs, batch['decoder_target_tokens'])
    assert ((inputs == 1).sum(axis=1) == 1).all()
    counts.update((inputs > 1).sum(axis=1).tolist())
    tokens.update(inputs[inputs > 1].tolist())
  assert counts == {2, 3, 4, 5}
  assert (min(tokens), max(tokens)) == (261, 349)
  _assert_same(stream.batch_at(50), plain.batch_at(0))


def _has_token_twice(row) -> bool:
  tokens = row[row > 1]
  return len(set(tokens.tolist())) < len(tokens)


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_strings_with_repeated_ngrams(share):
  # Among so many tokens hardly one comes again by chance.
  warmup = batches.CopyWarmup(
    steps=20, min_tokens=10, max_tokens=15, repeated_share=share
  )
  stream = batches.Batches(
    _made_up([9] * 64), batch_size=64, copy_warmup=warmup, vocab_size=10**6
  )
  found = [
    _has_token_twice(row)
    for step in range(20)
    for row in stream.batch_at(step)['encoder_input_tokens']
  ]
  # A span that is written over itself or by its successor repeats nothing.
  assert 0.75 * share <= np.mean(found) <= share


def test_a_share_of_strings_stays_in_every_batch():
  warmup = batches.CopyWarmup(
    steps=2, min_tokens=3, max_tokens=8, later_share=0.25
  )
  lengths = [5] * 18 + [20] * 12
  stream = batches.Batches(
    _made_up(lengths),
    batch_size=8,
    boundaries=(10, 20),
    copy_warmup=warmup,
    vocab_size=400,
  )
  assert len(stream) == 5  # Six sentences a batch.
  seen = []
  for step in range(2, 7):
    batch = stream.batch_at(step)
    inputs, targets = (
      batch['encoder_input_tokens'], batch['decoder_target_tokens']
    )  # fmt: skip
    np.testing.assert_array_equal(inputs[6:], targets[6:])
    assert (inputs[6:, 0] >= 261).all()
    count = (inputs[6:] > 1).sum(axis=1)
    assert (count >= 3).all() and (count < inputs.shape[1]).all()
    seen.extend(_row_numbers(batch)[:6])
  assert sorted(seen) == list(range(30))
  _assert_same(stream.batch_at(4), stream.batch_at(4))


def test_a_detour_by_hand():
  target = np.array([5, 6, 7, 5, 8, 1])  # 5 comes twice.
  random = np.random.default_rng(0)
  once = [5, 6, 7, 5, 6, 7, 5, 8, 1]
  twice = [5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 8, 1]
  found = set()
  for _ in range(40):
    row, place = batches.Detours(1.0).detour(random, target, 12)
    assert row[place].tolist() in ([6, 7, 5], [6, 7, 5, 6, 7, 5])
    assert place.start == 4
    found.add(tuple(row.tolist()))
  assert found == {tuple(once), tuple(twice)}
  row, _ = batches.Detours(1.0).detour(random, target, 11)
  assert row.tolist() == once
  assert batches.Detours(1.0).detour(random, target, 8) is None
  assert batches.Detours(1.0, longest=2).detour(random, target, 12) is None
  assert batches.Detours(1.0).detour(random, np.array([5, 6, 1]), 12) is None


def test_a_share_of_detours_above_one_is_refused():
  with pytest.raises(errors.ConfigError, match='got 1.5'):
    batches.Detours(1.5)


def test_detours_change_decoders_tokens_and_weights_only():
  rows = tuple(np.array([5, 6, 7, 5, 8 + i, 1], np.int32) for i in range(64))
  examples = arrays.TokenizedExamples(
    tuple(f'{i:016x}' for i in range(64)), rows, rows, truncated=0
  )
  plain, stream = (
    batches.Batches(
      examples, batch_size=64, boundaries=(12,), detours=batches.Detours(share)
    )
    for share in (0.0, 0.5)
  )
  before, after = plain.batch_at(3), stream.batch_at(3)
  np.testing.assert_array_equal(
    before['encoder_input_tokens'], after['encoder_input_tokens']
  )
  targets, weights = (
    after['decoder_target_tokens'], after['decoder_loss_weights']
  )  # fmt: skip
  np.testing.assert_array_equal(
    after['decoder_input_tokens'][:, 1:], targets[:, :-1]
  )
  changed = (targets != before['decoder_target_tokens']).any(axis=1)
  assert 0.3 < changed.mean() < 0.7
  # What is learned is what was learned before.
  for row in range(64):
    kept = targets[row][weights[row] > 0]
    assert kept.tolist() == before['decoder_target_tokens'][row, :6].tolist()
  _assert_same(after, stream.batch_at(3))


def test_eval_batches_keep_the_order_and_fill_up(examples):
  found = list(batches.eval_batches(examples, 32))
  assert [count for _, count in found[:-1]] == [32] * (len(found) - 1)
  assert sum(count for _, count in found) == len(examples)
  rows = []
  for batch, count in found:
    assert batch['encoder_input_tokens'].shape == (32, 64)
    assert batch['decoder_loss_weights'][count:].sum() == 0
    rows.extend(batch['decoder_target_tokens'][:count])
  for row, target in zip(rows, examples.targets, strict=True):
    assert row[row > 0].tolist() == target.tolist()


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'batch_size': 0}, 'at least 1, got 0'),
    ({'boundaries': (40, 24)}, 'must ascend'),
    ({'boundaries': ()}, 'must ascend'),
    ({'boundaries': (4,)}, 'the longest row of 6'),
    ({'copy_warmup': batches.CopyWarmup(1)}, 'needs a vocab_size'),
    (
      {'copy_warmup': batches.CopyWarmup(1), 'vocab_size': 261},
      'above its first token 261, got 261',
    ),
    (
      {'copy_warmup': batches.CopyWarmup(1, 9, 8), 'vocab_size': 400},
      'min_tokens <= max_tokens',
    ),
    (
      {'copy_warmup': batches.CopyWarmup(later_share=1.0), 'vocab_size': 400},
      'later_share must be in',
    ),
    ({'copy_warmup': batches.CopyWarmup(later_share=0.1)}, 'needs a vocab'),
  ],
)
def test_bad_settings_are_told(settings, message):
  with pytest.raises(errors.ConfigError, match=message):
    batches.Batches(_made_up([6] * 8), **{'batch_size': 4} | settings)


def test_too_few_examples_are_told():
  with pytest.raises(errors.DataError, match='at least one full batch of 4'):
    batches.Batches(_made_up([6] * 3 + [30] * 3), batch_size=4)
  with pytest.raises(errors.DataError, match='full batch'):
    batches.Batches(
      _made_up([6] * 3 + [30] * 9), batch_size=4, short_first_steps=2
    )


def test_arrays_need_neither_tensorflow_nor_jax():
  code = (
    'import sys\n'
    'for name in ("tensorflow", "seqio", "jax", "flax"):\n'
    '  sys.modules[name] = None\n'
    'from calm_jax.data import batches, seqio_tasks, vocabulary\n'
    'tokenizer = vocabulary.default_tokenizer()\n'
    'print(tokenizer.decode(tokenizer.encode("It works.")))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.stdout == 'It works.\n', done.stderr


@pytest.mark.parametrize(
  'lengths',
  [{'inputs': 64}, {'inputs': 64, 'targets': 0}, {'inputs': 64.0, 'targets': 8},
   64],
)  # fmt: skip
def test_feature_lengths_are_checked(examples, tokenizer, lengths):
  with pytest.raises(errors.ConfigError, match='each of inputs and targets'):
    arrays.tokenize([], tokenizer, lengths)
  with pytest.raises(errors.ConfigError, match='each of inputs and targets'):
    next(batches.eval_batches(examples, 8, lengths))


def test_noise_replaces_a_share_of_the_decoders_inputs_only():
  examples = _made_up([9] * 64)
  clean = batches.Batches(examples, batch_size=64, boundaries=(9,))
  noisy = batches.Batches(
    examples, batch_size=64, boundaries=(9,), vocab_size=500, decoder_noise=0.25
  )
  for key in set(_KEYS) - {'decoder_input_tokens'}:
    np.testing.assert_array_equal(
      noisy.batch_at(3)[key], clean.batch_at(3)[key]
    )
  before, after = (
    x.batch_at(3)['decoder_input_tokens'] for x in (clean, noisy)
  )
  assert (after[:, 0] == 0).all()  # The start symbol stays.
  share = (before != after)[:, 1:].mean()
  assert 0.15 < share < 0.35
  _assert_same(noisy.batch_at(3), noisy.batch_at(3))
  assert (noisy.batch_at(4)['decoder_input_tokens'] != after).any()
  with pytest.raises(errors.ConfigError, match='decoder_noise'):
    batches.Batches(examples, batch_size=64, boundaries=(9,), decoder_noise=0.1)


def test_shuffled_words_are_the_sentences_words_without_punctuation():
  found = [
    batches.shuffled_words(
      corpus.Example(f'{i:016x}', '', 'The Cat, it sat on the mat.')
    )
    for i in range(40)
  ]
  words = {'The', 'Cat', 'it', 'sat', 'on', 'the', 'mat'}
  lengths = set()
  for example in found:
    assert set(example.targets.split()) == words
    assert example.inputs == 'restore: ' + example.targets.lower()
    lengths.add(len(example.targets.split()))
  assert 7 in lengths and max(lengths) in (9, 10)
  assert len({x.targets for x in found}) > 30


def test_words_said_again_keep_their_order_and_punctuation():
  text = 'The Cat, it sat on the mat.'
  longer = set()
  for i in range(40):
    example = batches.words_said_again(corpus.Example(f'{i:016x}', '', text))
    words = example.targets.split()
    assert set(words) == set(text.split()) and len(words) > 7
    assert example.inputs == 'restore: ' + prose.plain_words(example.targets)
    # The sentence is still there, in its order.
    rest = iter(words)
    assert all(word in rest for word in text.split())
    longer.add(example.targets)
  assert len(longer) > 30


def test_shuffled_words_are_for_restoration_only():
  with pytest.raises(errors.ConfigError, match='shuffled_share'):
    batches.load_tokenized(
      'docstring_summarization', 'train', shuffled_share=0.5
    )
  with pytest.raises(errors.ConfigError, match='said_again_share'):
    batches.load_tokenized(
      'docstring_restoration', 'train', said_again_share=1.5
    )


def test_extra_folders_add_the_sentences_of_their_packages(
  source, cache_dir, tmp_path, monkeypatch
):
  folder = tmp_path / 'extra'
  (folder / 'other').mkdir(parents=True)
  (folder / 'other' / 'a.py').write_text(
    ''.join(
      f'# The {word} sentence stands only in the other package here.\n\n'
      for word in ('first', 'second', 'third', 'fourth', 'fifth', 'sixth')
    )
    + 'def f():\n  """Returns what nobody else returns.\n\n  More words."""\n'
  )
  info = folder / 'other-1.dist-info'
  info.mkdir()
  (info / 'METADATA').write_text(
    'Metadata-Version: 2.1\nName: other\nVersion: 1\n'
  )
  monkeypatch.setenv('CALM_JAX_CACHE', str(cache_dir))
  monkeypatch.setattr(corpus, 'installed_source', lambda: source)
  monkeypatch.setattr(corpus, 'without_quotations', lambda pairs, _: pairs)
  name = 'docstring_restoration'
  alone = batches.load_tokenized(name, 'train')
  both = batches.load_tokenized(name, 'train', extra_folders=(str(folder),))
  more = set(both.example_ids) - set(alone.example_ids)
  assert set(alone.example_ids) < set(both.example_ids)
  assert 1 <= len(more) <= 6
  shuffled = batches.load_tokenized(name, 'train', shuffled_share=0.5)
  assert len(shuffled) == len(alone) + len(alone) // 2
  with pytest.raises(errors.DataError, match='installed packages'):
    batches.load_tokenized(name, 'train', extra_folders=(str(tmp_path),))
