"""SentencePiece vocabulary: trained on the train split, usable without TF.

`Tokenizer` wraps `sentencepiece` alone and serves generation and training from
arrays; `load_vocabulary` gives seqio's class over the same file and ids.

How the shipped one was made, from inputs and targets of both tasks (its
sentences came from more packages, as gin/experiments/docstrings.gin tells, and
in another order):

  from calm_jax.data import vocabulary
  vocabulary.train_vocabulary(
    'sentencepiece.model', sentences=vocabulary.training_text(['more/'])
  )

Other versions of the installed packages, or of the extractor, give another
corpus and so other pieces: the file in the repository is the one to keep.
"""

import contextlib
import functools
import hashlib
import io
import os
import pathlib
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from calm_jax import errors
from calm_jax.data import case_factoring, corpus, tasks
from calm_jax.records import json_records

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2
# Early exit pays for the output embedding at every layer it asks: 4,096 pieces
# cost half of 8,192, for sentences that are 9% longer (15.4 instead of 14.1
# pieces per validation target of restoration).
DEFAULT_VOCAB_SIZE = 4096

# The vocabulary that ships with the pretrained model.
DEFAULT_PATH = (
  pathlib.Path(__file__).parents[1]
  / 'pretrained'
  / 'docstrings'
  / 'sentencepiece.model'
)

_SPECIAL_PIECES = ('<pad>', '</s>', '<unk>')
# Enough for nine in ten of the words in capitals of the train split.
_NUM_WORDS_IN_CAPITALS = 1000

# About what is left of an input after its truncation to 64 tokens: the code at
# the end of long docstrings must not spend pieces that no model ever sees.
_MAX_CHARACTERS = 200


class Tokenizer:
  """Text <-> token ids; same ids as `seqio.SentencePieceVocabulary`.

  Neither `encode` adds EOS nor does `decode` need it: `decode` stops there.
  """

  def __init__(self, path: str | os.PathLike | None = None):
    """Reads a `.model` file, `DEFAULT_PATH` if None.

    Raises:
      DataError: missing, damaged, or with other special ids than T5's.
    """
    self.path = pathlib.Path(path or DEFAULT_PATH)
    content = _read(self.path)
    self.digest = hashlib.sha256(content).hexdigest()
    self._processor = _processor(content, self.path)

  @property
  def vocab_size(self) -> int:
    return self._processor.get_piece_size()

  def encode(self, text: str) -> list[int]:
    """Ids of a text; DataError if it holds a lone surrogate."""
    with _explained([text]):
      return self._processor.encode(text)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; DataError if one holds a lone surrogate."""
    texts = list(texts)
    with _explained(texts):
      return self._processor.encode(texts)

  def decode(self, ids: Iterable[int]) -> str:
    """Text of the ids before the first EOS; padding is ignored."""
    kept = []
    for token in map(int, ids):
      if token == EOS_ID:
        break
      # Ids of a padded embedding (vocab 4,090 -> 4,096 rows) have no piece.
      kept.append(token if token < self.vocab_size else UNK_ID)
    return self._processor.decode([x for x in kept if x != PAD_ID])

  def piece(self, token: int) -> str:
    """One piece as shown to people, with `▁` where a word starts."""
    if not 0 <= token < self.vocab_size:
      return self._processor.id_to_piece(UNK_ID)
    return self._processor.id_to_piece(int(token))

  def pieces(self, tokens: Sequence[int]) -> tuple[str, ...]:
    """Pieces as shown to people, one per token, spelling the decoded text.

    A case marker (`case_factoring`) shows as the letter that it made capital,
    and the word's own piece as the rest: ⇑ the -> `▁T`, `he`.
    """
    shown = [self.piece(token) for token in tokens]
    start = 0
    while start < len(shown):
      end = start + 1
      if case_factoring.is_marker(shown[start]):
        end = _end_of_word(shown, start)
        text = self._processor.decode([int(x) for x in tokens[start:end]])
        shown[start:end] = case_factoring.shown_word(shown[start:end], text)
      start = end
    return tuple(shown)


@contextlib.contextmanager
def _explained(texts: Sequence[str]) -> Iterator[None]:
  """Says which text is none to SentencePiece, whose message does not."""
  try:
    yield
  except (RuntimeError, TypeError):
    for text in texts:
      _check_unicode(text)
    raise


def _check_unicode(text: str) -> None:
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise errors.DataError(
      f'A text must be valid Unicode, but {text[:40]!r} holds a lone'
      f' surrogate at character {error.start}. Mend it in the data.'
    ) from error


def _end_of_word(pieces: Sequence[str], start: int) -> int:
  """Where the word ends that the marker at `start` belongs to."""
  end = start + 1
  while end < len(pieces):
    is_first = end == start + 1
    piece = pieces[end]
    if piece in _SPECIAL_PIECES or case_factoring.is_marker(piece):
      break
    if piece.startswith('▁') and not is_first:
      break
    end += 1
  return end


def load_vocabulary(path: str | os.PathLike | None = None):
  """`seqio.SentencePieceVocabulary` of the file; imports TensorFlow.

  Raises:
    DataError: as `Tokenizer`.
  """
  import seqio

  path = Tokenizer(path).path
  return seqio.SentencePieceVocabulary(str(path), extra_ids=0)


def train_vocabulary(
  path: str | os.PathLike,
  *,
  vocab_size: int = DEFAULT_VOCAB_SIZE,
  sentences: Iterable[str] | None = None,
) -> None:
  """Trains a unigram vocabulary and writes it, whole or not at all.

  Pieces never join letters with punctuation (SentencePiece splits where the
  script changes), so `word,` is `▁word` and `,`, and case is factored out
  (`case_factoring`): the restored sentence keeps the pieces of its input.

  Args:
    path: the `.model` file to write.
    vocab_size: number of pieces with the specials and 256 bytes.
    sentences: the training text; all tasks' train splits if None.

  Raises:
    ConfigError: the text is too small for so many pieces.
    ResourceError: the file cannot be written.
  """
  sentences = list(training_text() if sentences is None else sentences)
  model = io.BytesIO()
  try:
    with _rule_files(sentences) as rules:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type='unigram',
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.9995,
        split_digits=True,
        # One piece each, where they would be a space and a sign.
        user_defined_symbols=[f'▁{x}' for x in case_factoring.MARKERS],
        # And inside words, however rare.
        required_chars=''.join(case_factoring.MARKERS),
        pad_id=PAD_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        bos_id=-1,
        # Threads add floats in their own order: one thread, one result.
        num_threads=1,
        minloglevel=1,
        **rules,
      )
  except RuntimeError as error:
    raise errors.ConfigError(
      f'The training text must allow a vocabulary of {vocab_size} pieces.'
      # Past the place in the C++ source.
      f' SentencePiece says: {str(error).split("] ")[-1]}'
    ) from error
  json_records.write_bytes_atomically(path, _without_paths(model.getvalue()))


def _without_paths(content: bytes) -> bytes:
  """The model without the names of its rule files, which exist no more."""
  model = sentencepiece_model_pb2.ModelProto.FromString(content)
  for spec in (model.normalizer_spec, model.denormalizer_spec):
    spec.ClearField('normalization_rule_tsv')
  return model.SerializeToString(deterministic=True)


@contextlib.contextmanager
def _rule_files(sentences: Iterable[str]) -> Iterator[dict[str, str]]:
  """Options that name the files of the case-factoring rules."""
  words = case_factoring.words_in_capitals(sentences, _NUM_WORDS_IN_CAPITALS)
  with tempfile.TemporaryDirectory() as folder:
    options = {}
    for name, rules in (
      ('normalization_rule_tsv', case_factoring.normalization_rules(words)),
      ('denormalization_rule_tsv', case_factoring.denormalization_rules(words)),
    ):
      path = pathlib.Path(folder, name)
      case_factoring.write_rules(path, rules)
      options[name] = str(path)
    yield options


def training_text(
  extra_folders: Sequence[str | os.PathLike] = (),
  *,
  source: corpus.Source | None = None,
  cache_dir: pathlib.Path | None = None,
) -> Iterator[str]:
  """Inputs and targets of every task's train split, in a fixed mixed order.

  Args:
    extra_folders: packages in folders of their own (`corpus.folder_source`),
      whose sentences for restoration are added.
    source: what the corpus is read from; the installed packages if None.
    cache_dir: where the corpus is kept; the default folder if None.
  """
  places = [(task, source) for task in tasks.TASKS]
  for folder in extra_folders:
    places.append((tasks.RESTORATION.name, corpus.folder_source(folder)))
  # By id: the same target, found again, is one example.
  found = {
    (task, example.example_id): example
    for task, place in reversed(places)
    for example in corpus.load_corpus(
      task, 'train', source=place, cache_dir=cache_dir
    )
  }
  texts = []
  for _, example in sorted(found.items()):
    texts.extend((example.inputs[:_MAX_CHARACTERS], example.targets))
  random.Random(0).shuffle(texts)
  yield from texts


@functools.lru_cache(maxsize=8)
def default_tokenizer(path: str | None = None) -> Tokenizer:
  """`Tokenizer(path)`, read once."""
  return Tokenizer(path)


def _read(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise errors.DataError(
      f'The vocabulary {path} must be a readable SentencePiece .model file:'
      f' {error.strerror}.'
    ) from error


def _processor(content: bytes, path: pathlib.Path):
  processor = sentencepiece.SentencePieceProcessor()
  try:
    # An empty model would parse, and abort the process at its first use.
    loaded = bool(content) and processor.load_from_serialized_proto(content)
  except (RuntimeError, TypeError, ValueError):
    loaded = False
  if not loaded:
    raise errors.DataError(
      f'The vocabulary {path} must be a SentencePiece .model file; it is'
      ' damaged or something else.'
    )
  got = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if got != (PAD_ID, EOS_ID, UNK_ID):
    raise errors.DataError(
      f'The vocabulary {path} must have pad, eos, unk = 0, 1, 2 as T5 has; it'
      f' has {got}.'
    )
  return processor
