"""Tests of the vocabulary, its training and its two readers."""

import pytest
import sentencepiece

from calm_jax import errors
from calm_jax.data import corpus, vocabulary


def test_special_ids(tokenizer):
  assert [tokenizer.piece(i) for i in range(3)] == ['<pad>', '</s>', '<unk>']
  assert tokenizer.vocab_size == 350


def test_round_trip_of_the_corpus(tokenizer, source, cache_dir):
  for example in corpus.load_corpus(
    'docstring_restoration', 'test', source=source, cache_dir=cache_dir
  ):
    ids = tokenizer.encode(example.targets)
    assert min(ids) > 2
    assert tokenizer.decode(ids) == example.targets


def test_bytes_stand_in_for_unknown_characters(tokenizer):
  text = 'naïve 猫 ☃'
  ids = tokenizer.encode(text)
  assert vocabulary.UNK_ID not in ids
  assert tokenizer.decode(ids) == text


def test_punctuation_has_pieces_of_its_own(tokenizer):
  word = tokenizer.encode('tensor')
  with_comma = tokenizer.encode('tensor,')
  assert with_comma[:-1] == word
  assert tokenizer.piece(with_comma[-1]) == ','


def test_decode_stops_at_eos_and_ignores_padding(tokenizer):
  ids = tokenizer.encode('the window')
  more = tokenizer.encode('never')
  assert tokenizer.decode([0, *ids, 1, *more]) == 'the window'
  assert tokenizer.decode([1, 0, 0]) == ''
  assert tokenizer.decode([]) == ''


def test_ids_of_padded_embedding_rows_do_not_crash(tokenizer):
  assert tokenizer.piece(350) == '<unk>'
  assert '⁇' in tokenizer.decode([511])


def test_encode_batch(tokenizer):
  texts = ['the window', '', 'a server']
  expected = [tokenizer.encode(text) for text in texts]
  assert tokenizer.encode_batch(texts) == expected


def test_training_is_deterministic(
  vocabulary_path, source, cache_dir, tmp_path
):
  again = tmp_path / 'new' / 'again.model'
  text = vocabulary.training_text(source=source, cache_dir=cache_dir)
  vocabulary.train_vocabulary(again, vocab_size=350, sentences=text)
  assert again.read_bytes() == vocabulary_path.read_bytes()
  assert [path.name for path in again.parent.iterdir()] == ['again.model']


def test_training_text_is_the_train_split_alone(source, cache_dir):
  text = set(vocabulary.training_text(source=source, cache_dir=cache_dir))
  for split, expected in (('train', True), ('test', False)):
    for example in corpus.load_corpus(
      'docstring_restoration', split, source=source, cache_dir=cache_dir
    ):
      assert (example.targets in text) == expected


def test_a_place_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / 'file').touch()
  sentences = [
    'Quick brown foxes jump over the lazy dog; vowels go zigzag.',
    'The cat (of a Server) returns "JSON", which a client reads again.',
  ] * 9
  with pytest.raises(errors.ResourceError, match='Cannot write .*some.model'):
    vocabulary.train_vocabulary(
      tmp_path / 'file' / 'some.model', vocab_size=300, sentences=sentences
    )


def test_too_little_text_is_told(tmp_path):
  path = tmp_path / 'never.model'
  with pytest.raises(errors.ConfigError, match='of 4096 pieces'):
    vocabulary.train_vocabulary(path, sentences=['only one line'] * 9)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content', [b'', b'not a model', b'\x00' * 100])
def test_fault_38_a_damaged_file_is_told(tmp_path, content):
  path = tmp_path / 'damaged.model'
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match='damaged.model'):
    vocabulary.Tokenizer(path)


def test_fault_38_a_truncated_file_is_told(tmp_path, vocabulary_path):
  content = vocabulary_path.read_bytes()
  path = tmp_path / 'cut.model'
  for size in range(0, len(content), len(content) // 13):
    path.write_bytes(content[:size])
    with pytest.raises(errors.DataError, match='cut.model'):
      vocabulary.Tokenizer(path)


def test_fault_38_a_missing_file_is_told(tmp_path):
  with pytest.raises(errors.DataError, match='No such file'):
    vocabulary.Tokenizer(tmp_path / 'none.model')


def test_fault_37_other_special_ids_are_told(tmp_path, source, cache_dir):
  prefix = str(tmp_path / 'other')
  text = vocabulary.training_text(source=source, cache_dir=cache_dir)
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=text, model_prefix=prefix, vocab_size=100, minloglevel=2
  )
  with pytest.raises(errors.DataError, match='pad, eos, unk = 0, 1, 2'):
    vocabulary.Tokenizer(prefix + '.model')


def test_seqio_gives_the_same_ids(
  tokenizer, vocabulary_path, source, cache_dir
):
  seqio_vocabulary = vocabulary.load_vocabulary(vocabulary_path)
  assert seqio_vocabulary.pad_id == vocabulary.PAD_ID
  assert seqio_vocabulary.eos_id == vocabulary.EOS_ID
  assert seqio_vocabulary.unk_id == vocabulary.UNK_ID
  assert seqio_vocabulary.vocab_size == tokenizer.vocab_size
  examples = corpus.load_corpus(
    'docstring_summarization', 'train', source=source, cache_dir=cache_dir
  )
  for text in [x.inputs for x in examples[:50]] + ['naïve 猫', '  two  spaces']:
    ids = tokenizer.encode(text)
    assert seqio_vocabulary.encode(text) == ids
    assert seqio_vocabulary.encode_tf(text).numpy().tolist() == ids
    assert seqio_vocabulary.decode(ids) == tokenizer.decode(ids)


def test_the_shipped_vocabulary():
  tokenizer = vocabulary.default_tokenizer()
  assert tokenizer.vocab_size == vocabulary.DEFAULT_VOCAB_SIZE
  lower = tokenizer.encode('the shape of the array if it is known')
  written = tokenizer.encode('The shape of the array, if it is known.')
  # All but the first word, the comma and the period are pieces of the input.
  assert sum(x not in lower for x in written) == 3
