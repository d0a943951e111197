"""The shipped model does what the README says, on sentences written for it."""

import functools

import numpy as np

import calm_jax
from calm_jax.checkpoints import bundle
from calm_jax.data import tasks
from calm_jax.doctor import looks
from calm_jax.metrics import text_metrics

SENTENCES = (
  'Returns the number of items in the list, or zero if it is empty.',
  'If the file does not exist, it is created.',
  'This method is called before the model is saved.',
  'Raises an error if the shapes of the two arrays do not match.',
  'The default value is None, which means that no limit is set.',
  'Computes the mean of the values along the given axis.',
  'Note that the order of the keys is not preserved.',
  'By default, the output is written to a temporary directory.',
  'When the list is empty, this function returns False.',
  'Wait until all threads have finished, then close the queue.',
  'The first argument must be a string, not a number.',
  'For example, the user may want to change the color of a line.',
  looks.OUTPUT,
)
TASK = tasks.get_task('docstring_restoration')
INPUTS = tuple(TASK.inputs_of(x) for x in SENTENCES)


@functools.cache
def _generate(threshold):
  return tuple(_model().generate(INPUTS, threshold=threshold))


@functools.cache
def _model():
  return calm_jax.load()


def _mean_chrf(texts):
  return np.mean(list(map(text_metrics.chrf, texts, SENTENCES)))


def test_restores_better_than_copying_the_input():
  copied = _mean_chrf([TASK.baseline_prediction(x) for x in INPUTS])
  restored = _mean_chrf([x.text for x in _generate(1.0)])
  assert restored > copied + 0.03
  exact = [x.text == y for x, y in zip(_generate(1.0), SENTENCES, strict=True)]
  assert np.mean(exact) >= 0.5


def test_decodes_what_calm_doctor_expects():
  assert INPUTS[-1] == looks.INPUTS
  assert _generate(1.0)[-1].text == looks.OUTPUT


def test_leaves_early_on_easy_tokens_and_late_on_hard_ones():
  full, early = _generate(1.0), _generate(0.95)
  used = np.concatenate([x.num_layers_used for x in early])
  assert used.mean() < 4.5 and used.max() == 8 and used.min() == 1
  losses = [
    1 - text_metrics.chrf(x.text, y.text)
    for x, y in zip(early, full, strict=True)
  ]
  assert np.mean(losses) < 0.1


def test_is_small_enough_for_a_repository():
  folder = bundle.default_bundle_path()
  size = sum(path.stat().st_size for path in folder.iterdir())
  assert size < 22e6
