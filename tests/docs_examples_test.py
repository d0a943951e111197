"""docs/examples: what a reader is shown to write runs, at tiny size."""

import json
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax.checkpoints import bundle
from calm_jax.cli import main
from calm_jax.config import gin_setup
from calm_jax.data import task_examples, text_tasks, vocabulary
from calm_jax.decode import model as model_lib
from calm_jax.early_exit.engine import confidence
from calm_jax.early_exit.measures import classifiers
from calm_jax.t5 import network, rows
from calm_jax.training import writers

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / 'docs' / 'examples'
TINY = (
  '--gin_search_paths=docs/examples',
  '--gin_file=gin/experiments/tiny.gin',
)


@pytest.fixture(autouse=True)
def beside_the_examples(monkeypatch):
  """As in the docs: run from the root, with docs/examples to import from."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, 'path', [*sys.path, str(EXAMPLES)])
  monkeypatch.setattr(text_tasks, '_added', dict(text_tasks._added))


@pytest.fixture(scope='module')
def tiny_bundle(tmp_path_factory):
  """An untrained model of gin/experiments/tiny.gin."""
  gin_setup.parse(['gin/experiments/tiny.gin'], [])
  model = gin_setup.macro('MODEL')
  row = jnp.ones((1, 4), jnp.int32)
  init = jax.jit(
    lambda key: model.module.init(key, row, row, row, enable_dropout=False)
  )
  folder = tmp_path_factory.mktemp('model')
  bundle.save_bundle(
    folder,
    init(jax.random.key(0))['params'],
    model.config,
    bundle.BundleInfo('docstring_restoration', {'inputs': 64, 'targets': 8}),
    vocabulary.DEFAULT_PATH,
    dtype='float32',
  )
  return folder


# ---- my_measure --------------------------------------------------------------


def test_the_margin_is_that_of_the_two_best_probabilities():
  import my_measure

  logits = np.random.default_rng(0).normal(size=(5, 9)) * 3
  probs = np.sort(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(
    my_measure.margin(jnp.float32(logits)),
    1 - probs[:, -2] / probs[:, -1],
    rtol=1e-5,
  )
  view = types.SimpleNamespace(
    logits=lambda: jnp.float32(logits), predict=lambda x: x.argmax(axis=1)
  )
  answer = my_measure.LogProbMargin()(view)
  assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
  np.testing.assert_array_equal(answer.prediction, logits.argmax(axis=1))


def test_the_steady_margin_remembers_the_first_exit_of_the_token_before():
  import my_measure

  measure = my_measure.SteadyMargin(weight=0.25)
  logits = jnp.float32([[2.0, 0.0], [3.0, 0.0]])  # of rows 2 and 0 of three
  sequence = jnp.float32([0.8, 0.6, 0.4])
  first = measure(
    types.SimpleNamespace(
      logits=lambda: logits,
      predict=lambda x: None,
      exit_number=0,
      is_full_model=jnp.array([False, True]),
      rows=rows.Rows(jnp.array([2, 0]), jnp.int32(2)),
      token_state=measure.start_token(None, 2),
      sequence_state=sequence,
    )
  )
  now = 1 - np.exp([-2.0, -3.0])
  np.testing.assert_allclose(
    first.confidence, 0.75 * now + 0.25 * np.array([0.4, 0.0]), rtol=1e-6
  )
  np.testing.assert_allclose(
    first.sequence_state, [now[1], 0.6, now[0]], rtol=1e-6
  )
  np.testing.assert_allclose(first.token_state, [0.4, 0.0], rtol=1e-6)


@pytest.mark.parametrize('name', ['SteadyMargin', 'AgreeingGap'])
def test_a_row_of_a_batch_is_what_it_is_alone(name):
  import my_measure

  model, params = tiny_t5.tiny_model(getattr(my_measure, name)(0.5))
  generate = jax.jit(
    lambda tokens, thresholds: tiny_t5.generate(
      model, params, tokens, thresholds, max_decode_length=6
    )
  )
  tokens = tiny_t5.sources(4)
  thresholds = np.float32([0.3, 0.7, 0.5, 1.0])
  if name == 'AgreeingGap':
    thresholds = np.float32([0.1, 0.2, 0.15, 1.0])
  together = generate(tokens, thresholds)
  assert 1 < np.mean(np.asarray(together.num_layers_used)[:3]) < 4
  for i in range(4):
    # The others are another text, and another threshold.
    others = np.roll(tokens, 1, axis=0)
    others[i] = tokens[i]
    alone = generate(others, np.where(np.arange(4) == i, thresholds, 0.1))
    for name in ('tokens', 'num_layers_used', 'confidences'):
      np.testing.assert_array_equal(
        getattr(together, name)[i], getattr(alone, name)[i]
      )


def test_gin_puts_the_measure_into_every_model():
  gin_setup.parse(['my_measure.gin'], [], 'docs/examples')
  model = model_lib.EncoderDecoderModel(
    network.Transformer(tiny_t5.tiny_config(tied=False))
  )
  assert repr(model.measure) == 'SteadyMargin(weight=0.25)'
  assert isinstance(model.measure, confidence.ConfidenceMeasure)


# ---- my_classifier, on my_file_task ------------------------------------------


def test_the_classifier_is_trained_and_decides(
  tiny_bundle, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(writers, 'summary_writer', lambda directory: None)
  task = '--gin_file=my_file_task.gin'
  assert not main.main([
    'train', *TINY, task, '--gin_file=my_classifier_train.gin',
    f'--gin.INITIAL_CHECKPOINT_PATH="{tiny_bundle}"',
    f'--gin.MODEL_DIR="{tmp_path}"',
    '--gin.TRAIN_STEPS=4', '--gin.LOG_PERIOD=1', '--gin.WARMUP_STEPS=1',
  ])  # fmt: skip
  lines = (tmp_path / 'train' / 'metrics.jsonl').read_text().splitlines()
  losses = [json.loads(line)['loss/layer_scaled'] for line in lines]
  assert len(losses) == 4 and losses[-1] < losses[0]
  capsys.readouterr()
  assert not main.main([
    'generate', *TINY, task, '--gin_file=my_classifier.gin',
    f'--model={tmp_path}', '--threshold=0', '--task=my_capitals_from_files',
    '--format=layers', 'France',
  ])  # fmt: skip
  shown = capsys.readouterr().out.split()
  assert shown and {piece.rpartition('/')[2] for piece in shown} == {'1'}


def test_the_classifier_reads_single_tokens_as_it_reads_sequences():
  import my_classifier

  kind = my_classifier.LayerScaled()
  module = kind.module(4)
  params = classifiers.init_params(kind, jax.random.key(0), 8, 4)
  params = {**params, 'bias': jnp.float32([0.1, 0.2, 0.3])}
  states = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
  weights = np.asarray(params['direction']['kernel'])[:, 0]
  for layer in (1, 2, 3):
    whole = module.apply({'params': params}, states, layer)
    single = module.apply(
      {'params': params}, states[:, 1], layer, method='step'
    )
    np.testing.assert_allclose(whole[:, 1], single, rtol=1e-5)
    norm = np.sqrt((states**2).mean(axis=-1))
    np.testing.assert_allclose(
      whole, states @ weights / norm + layer / 10, rtol=1e-4, atol=1e-5
    )


# ---- my_task -----------------------------------------------------------------


@pytest.fixture
def forgotten_task():
  """What importing my_task leaves behind."""
  import seqio

  yield
  sys.modules.pop('my_task', None)
  if 'my_capitals' in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove('my_capitals')


def test_the_seqio_task_and_the_file_task_are_the_same(forgotten_task):
  gin_setup.parse(
    ['gin/experiments/tiny.gin', 'my_file_task.gin'], [], 'docs/examples'
  )
  name = gin_setup.macro('MIXTURE_OR_TASK_NAME')
  from_file = task_examples.load(name, 'train').examples
  assert len(from_file) == 32
  assert all(task_examples.load(name, x).examples for x in HELD_OUT)
  gin_setup.parse(
    ['gin/experiments/tiny.gin', 'my_task.gin'], [], 'docs/examples'
  )
  found = task_examples.load(gin_setup.macro('MIXTURE_OR_TASK_NAME'), 'train')
  assert found.info.metrics == ('exact_match',)
  assert _texts(found.examples) == _texts(from_file)
  assert ('capital: Australia', 'Canberra') in _texts(from_file)


HELD_OUT = ('validation', 'calibration', 'test')


def _texts(examples):
  return {(example.inputs, example.targets) for example in examples}
