"""A seqio task outside calm_jax: capitals, from a TSV file by split.

my_task.gin imports this module, and so registers the task. my_file_task.gin is
the same task without any Python.
"""

import pathlib

import seqio
import tensorflow as tf

from calm_jax.data import vocabulary
from calm_jax.metrics import text_metrics

NAME = 'my_capitals'

_FOLDER = pathlib.Path(__file__).parent
_FEATURE = seqio.Feature(vocabulary.load_vocabulary())


@seqio.map_over_dataset
def _columns(line):
  """A line of the file -> inputs and targets, as T5's tasks name them."""
  country, capital = tf.unstack(tf.strings.split(line, '\t', maxsplit=1), num=2)
  return {
    'inputs': tf.strings.join(['capital: ', country]),
    'targets': capital,
  }


def exact_match(targets, predictions):
  """A metric of a whole split, as seqio takes it; named as one of calm_jax's.

  So `calm dump` and `calm calibrate` know which metric judges one output.
  """
  scores = map(text_metrics.exact_match, predictions, targets)
  return {'exact_match': sum(scores) / len(targets)}


seqio.TaskRegistry.add(
  NAME,
  source=seqio.TextLineDataSource(
    {
      'train': str(_FOLDER / 'capitals_train.tsv'),
      'validation': str(_FOLDER / 'capitals_held_out.tsv'),
    },
    skip_header_lines=1,
  ),
  preprocessors=[
    _columns,
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
  ],
  output_features={'inputs': _FEATURE, 'targets': _FEATURE},
  metric_fns=[exact_match],
)
