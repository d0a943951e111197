"""TFDS examples -> T5's inputs and targets, as tf.data transformations.

What T5 and CALM trained on (Raffel et al. 2020, Appendix D), to the letter. An
`example_id` is kept. Imports TensorFlow.
"""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

_Features = Mapping[str, tf.Tensor]

_LANGUAGES = {'de': 'German', 'en': 'English', 'fr': 'French', 'ro': 'Romanian'}


@dataclasses.dataclass(frozen=True)
class Summarize:
  """{article, highlights} -> 'summarize: ' + article, highlights.

  Attributes:
    article_key, summary_key: names of the two features.
  """

  article_key: str
  summary_key: str

  def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    return _map(dataset, self._pair)

  def _pair(self, features: _Features) -> _Features:
    return {
      'inputs': 'summarize: ' + features[self.article_key],
      'targets': features[self.summary_key],
    }


@dataclasses.dataclass(frozen=True)
class Translate:
  """{en, fr} -> 'translate English to French: ' + en, fr.

  Attributes:
    source_language, target_language: keys of `_LANGUAGES`, and names of the two
      features.
  """

  source_language: str
  target_language: str

  def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
    return _map(dataset, self._pair)

  def _pair(self, features: _Features) -> _Features:
    source, target = self.source_language, self.target_language
    prefix = f'translate {_LANGUAGES[source]} to {_LANGUAGES[target]}: '
    return {
      'inputs': prefix + features[source],
      'targets': features[target],
    }


def squad(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Open-book questions: 'question: Q context: C', the first answer.

  Punctuation stands apart in all texts, and so does every letter outside a-z:
  'Beyoncé' is 'Beyonc é'. `answers` keeps all answers.
  """
  return _map(dataset, _question)


def _question(features: _Features) -> _Features:
  answers = _pad_punctuation(features['answers']['text'])
  question = _pad_punctuation(features['question'])
  context = _pad_punctuation(features['context'])
  inputs = tf.strings.join(['question:', question, 'context:', context], ' ')
  return {
    'inputs': _single_spaces(inputs),
    'targets': answers[0],
    'id': features['id'],
    'question': question,
    'context': context,
    'answers': answers,
  }


def _pad_punctuation(text: tf.Tensor) -> tf.Tensor:
  # For TensorFlow, \W is all but ASCII letters, digits and underscores.
  return _single_spaces(tf.strings.regex_replace(text, r'(\W)', r' \1 '))


def _single_spaces(text: tf.Tensor) -> tf.Tensor:
  return tf.strings.regex_replace(text, r'\s+', ' ')


def _map(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
  def with_id(features: _Features) -> _Features:
    kept = {k: v for k, v in features.items() if k == 'example_id'}
    return {**kept, **function(features)}

  return dataset.map(with_id, num_parallel_calls=tf.data.AUTOTUNE)
