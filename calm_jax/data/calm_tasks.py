"""The three tasks of the CALM paper, over TensorFlow Datasets.

    TFDS --tfds_source--> splits --preprocessors--> text --> dump
                                                         --> seqio, for training

Names, inputs and targets are T5's (`t5.data.tasks`), so that checkpoints and
numbers can be compared. What TFDS calls train is train; its validation and test
examples together are divided by a stable hash into validation, calibration and
test, because a threshold must be calibrated on examples that chose nothing
before. TensorFlow is imported only when examples are read.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from calm_jax import errors
from calm_jax.data import corpus, prose, splits, tasks, text_tasks
from calm_jax.metrics import answers

# T5 adds so many ids to the vocabulary, for its pre-training.
EXTRA_IDS = 100

VOCABULARY_HELP = (
  "T5's file of 32,000 pieces is public: gs://t5-data/vocabs/cc_all.32000/"
  'sentencepiece.model, or spiece.model of any T5 1.1 model on Hugging Face.'
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalmTask:
  """A task over a data set of TFDS.

  Attributes:
    info: name, metrics and baseline.
    tfds_name: data set, configuration and version.
    held_out: its splits other than train, as TFDS writes a sum of splits.
    identity: features that make an example what it is; its id is their hash.
    preprocessor: gives the function from TFDS' examples to T5's.
    metric_fns: names in `t5_metrics`, for seqio's evaluators.
    vocabulary_path: T5's SentencePiece file; only seqio needs it.
    tfds_data_dir: where TFDS keeps its data; its own default if None.
  """

  info: tasks.TaskInfo
  tfds_name: str
  held_out: str = 'validation+test'
  identity: tuple[str, str]
  preprocessor: Callable[[], Callable[[Any], Any]]
  metric_fns: tuple[str, ...]
  vocabulary_path: str | None = None
  tfds_data_dir: str | None = None

  def load(self, split: str) -> list[corpus.Example]:
    """Examples of a split, ordered by id; equal ones are one example.

    The targets are the references: all answers where there are several, one a
    line (`answers.join`).

    Raises:
      ConfigError: the task has no such split.
      DataError: TFDS has not prepared the data.
    """
    if split not in splits.SPLITS:
      raise errors.unknown_name(
        f'split of {self.info.name}', split, splits.SPLITS
      )
    dataset = self.preprocessor()(self._source().identified(split))
    return text_tasks.distinct(
      corpus.Example(
        features['example_id'].decode(),
        features['inputs'].decode('utf-8'),
        _reference(features),
      )
      for features in dataset.as_numpy_iterator()
    )

  def check_data(self) -> None:
    """Raises a DataError where TFDS has not prepared the data."""
    self._source().check_is_prepared()

  def add_to_seqio(self) -> None:
    """Registers the task with seqio under T5's name; replaces one of it.

    A task of this name that another package has registered stays, unless a
    vocabulary was given for ours.

    Raises:
      ConfigError: no vocabulary was given.
      DataError: it, or the data set, is missing or damaged.
    """
    import seqio

    from calm_jax.data import t5_metrics

    name = self.info.name
    if name in seqio.TaskRegistry.names():
      if self.vocabulary_path is None:
        return
      seqio.TaskRegistry.remove(name)
    feature = seqio.Feature(t5_vocabulary(self.vocabulary_path), add_eos=True)
    seqio.TaskRegistry.add(
      name,
      source=self._source(),
      preprocessors=[
        self.preprocessor(),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features={'inputs': feature, 'targets': feature},
      postprocess_fn=_all_answers,
      metric_fns=[getattr(t5_metrics, name) for name in self.metric_fns],
    )

  def _source(self):
    from calm_jax.data import tfds_source

    return tfds_source.HeldOutSource(
      self.tfds_name, self.held_out, self.identity, self.tfds_data_dir
    )


def t5_vocabulary(path: str | None):
  """`seqio.SentencePieceVocabulary` of T5's file, with its 100 extra ids.

  A file that holds the extra ids already (32,100 pieces) gets no more.

  Raises:
    ConfigError: no path.
    DataError: no SentencePiece model is there.
  """
  if path is None:
    raise errors.ConfigError(
      'VOCABULARY_PATH must name a SentencePiece file. ' + VOCABULARY_HELP
    )
  import seqio

  from calm_jax.data import vocabulary

  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise errors.DataError(
      f'VOCABULARY_PATH must name a file, but {path} is none. {VOCABULARY_HELP}'
    )
  tokenizer = vocabulary.Tokenizer(path)
  has_them = 'extra_id' in tokenizer.piece(tokenizer.vocab_size - 1)
  extra_ids = 0 if has_them else EXTRA_IDS
  return seqio.SentencePieceVocabulary(str(path), extra_ids=extra_ids)


def register(
  *,
  name: str,
  vocabulary_path: str | None = None,
  tfds_data_dir: str | None = None,
) -> str:
  """Adds a task with the user's paths and returns its name, for gin files.

  Raises:
    ConfigError: no task of that name.
  """
  if name not in TASKS:
    raise errors.unknown_name("task of CALM's", name, TASKS)
  return text_tasks.add(
    dataclasses.replace(
      TASKS[name], vocabulary_path=vocabulary_path, tfds_data_dir=tfds_data_dir
    )
  )


def _reference(features: dict[str, Any]) -> str:
  if 'answers' in features:
    return answers.join(x.decode('utf-8') for x in features['answers'])
  return features['targets'].decode('utf-8')


def _all_answers(text, example=None, is_target=False):
  """T5's postprocessor of questions; others have one target."""
  if is_target and 'answers' in (example or {}):
    return [answer.decode('utf-8') for answer in example['answers']]
  return text


def _summarize():
  from calm_jax.data import preprocessors

  return preprocessors.Summarize('article', 'highlights')


def _translate():
  from calm_jax.data import preprocessors

  return preprocessors.Translate('en', 'fr')


def _squad():
  from calm_jax.data import preprocessors

  return preprocessors.squad


def _first_sentences(text: str) -> str:
  return ' '.join(prose.split_sentences(text)[:3])


CNN_DAILYMAIL = CalmTask(
  info=tasks.TaskInfo(
    name='cnn_dailymail_v002',
    prefix='summarize: ',
    metrics=('rouge_l', 'rouge_1', 'rouge_2'),
    baseline='first_three_sentences',
    predict=_first_sentences,
  ),
  tfds_name='cnn_dailymail:3.4.0',
  identity=('article', 'highlights'),
  preprocessor=_summarize,
  metric_fns=('rouge',),
)
WMT15_ENFR = CalmTask(
  info=tasks.TaskInfo(
    name='wmt15_enfr_v003',
    prefix='translate English to French: ',
    # CALM takes BLEURT and BLEU. BLEU is a measure of whole corpora, so that
    # chrF judges sentences unless the user names another metric.
    metrics=('chrf', 'sentence_bleu'),
    baseline='input_copied',
    predict=str,
  ),
  tfds_name='wmt15_translate/fr-en:1.0.0',
  identity=('en', 'fr'),
  preprocessor=_translate,
  metric_fns=('bleu',),
)
SQUAD = CalmTask(
  info=tasks.TaskInfo(
    name='squad_v010_allanswers',
    prefix='question: ',
    metrics=('squad_f1', 'squad_exact_match'),
    baseline='input_copied',
    predict=str,
  ),
  tfds_name='squad/v1.1:3.0.0',
  held_out='validation',
  identity=('question', 'context'),
  preprocessor=_squad,
  metric_fns=('squad',),
)
TASKS = {task.info.name: task for task in (CNN_DAILYMAIL, WMT15_ENFR, SQUAD)}
