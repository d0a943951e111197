"""CALM's three data sets in TFDS' own format, with made-up examples."""

import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds


def _texts(*names):
  return tfds.features.FeaturesDict(
    {name: tfds.features.Text() for name in names}
  )


def news(i):
  return {
    'article': f'Item {i}. It rained. It rained again. Then the sun came.',
    'highlights': f'It rained {i} times .\nThe sun came .',
    'id': str(i),
  }


def pair(i):
  return {'en': f'That is good, {i}.', 'fr': f"C'est bon, {i}."}


def question(i):
  return {
    'id': f'q{i}',
    'title': 'Rollo',
    'context': f'In {900 + i}, Rollo (a Norman) met Beyoncé.',
    'question': 'When did Rollo  meet her?',
    'answers': {
      'text': [f'In {900 + i}', f'{900 + i}', f'{900 + i}'],
      'answer_start': [0, 3, 3],
    },
  }


SETS = {
  'cnn_dailymail_v002': (
    {'name': 'cnn_dailymail', 'version': '3.4.0'},
    lambda: _texts('article', 'highlights', 'id'),
    news,
    {'train': range(5), 'validation': range(5, 25), 'test': range(24, 45)},
  ),
  'wmt15_enfr_v003': (
    {'name': 'wmt15_translate', 'config': 'fr-en', 'version': '1.0.0'},
    lambda: tfds.features.Translation(languages=('en', 'fr')),
    pair,
    {'train': range(5), 'validation': range(5, 25), 'test': range(24, 45)},
  ),
  'squad_v010_allanswers': (
    {'name': 'squad', 'config': 'v1.1', 'version': '3.0.0'},
    lambda: tfds.features.FeaturesDict(
      {
        **{x: tfds.features.Text() for x in ('id', 'title', 'context')},
        'question': tfds.features.Text(),
        'answers': tfds.features.Sequence(
          {'text': tfds.features.Text(), 'answer_start': np.int32}
        ),
      }
    ),
    question,
    {'train': range(5), 'validation': range(5, 45)},
  ),
}


def _columns(rows):
  """[{key: value}] -> {key: [values]}, nested."""
  return {
    key: _columns([row[key] for row in rows])
    if isinstance(value, dict)
    else [row[key] for row in rows]
    for key, value in rows[0].items()
  }


def write(folder: pathlib.Path) -> None:
  """Writes all of `SETS` as `tfds build --data_dir=folder` would have."""
  for names, features, example, parts in SETS.values():
    tfds.dataset_builders.store_as_tfds_dataset(
      data_dir=folder,
      features=features(),
      split_datasets={
        split: tf.data.Dataset.from_tensor_slices(
          _columns([example(i) for i in numbers])
        )
        for split, numbers in parts.items()
      },
      **names,
    )


def texts() -> list[str]:
  """Every text of the examples, to train a vocabulary on."""
  return [
    str(value)
    for _, _, example, parts in SETS.values()
    for numbers in parts.values()
    for i in numbers
    for value in example(i).values()
  ]
