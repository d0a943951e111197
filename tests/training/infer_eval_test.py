"""Evaluation by decoding against the model itself."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from testing import copying, tiny_t5

from calm_jax import errors
from calm_jax.config import gin_setup
from calm_jax.decode import beam_search
from calm_jax.decode import model as model_lib
from calm_jax.training import infer_eval

seqio = pytest.importorskip('seqio')

TASK = 'copy_for_infer_eval_test'
# Above seqio's limit of 32 numbers in an array.
LENGTHS = {'inputs': 8, 'targets': 40}
NUM_EXAMPLES = 5


def sources():
  random = np.random.default_rng(0)
  return [random.integers(2, 32, 3 + i) for i in range(NUM_EXAMPLES)]


def _dataset_fn(split, shuffle_files, seed=None):
  import tensorflow as tf

  def generate():
    for row in sources():
      yield {'inputs': row, 'targets': row}

  spec = tf.TensorSpec([None], tf.int32)
  return tf.data.Dataset.from_generator(
    generate, output_signature={'inputs': spec, 'targets': spec}
  )


def lengths(targets, predictions):
  """Also what cannot be written as JSON."""
  assert len(targets) == len(predictions) == NUM_EXAMPLES
  return {
    'predicted': float(np.mean([len(x) for x in predictions])),
    'undefined': math.nan,
  }


@pytest.fixture(scope='module', autouse=True)
def task():
  feature = seqio.Feature(
    seqio.PassThroughVocabulary(copying.VOCAB_SIZE, eos_id=1)
  )
  seqio.TaskRegistry.add(
    TASK,
    source=seqio.FunctionDataSource(_dataset_fn, splits=('validation',)),
    preprocessors=[seqio.preprocessors.append_eos_after_trim],
    output_features={'inputs': feature, 'targets': feature},
    metric_fns=[lengths],
  )
  yield
  seqio.TaskRegistry.remove(TASK)


@pytest.fixture(scope='module')
def model_and_params():
  model = model_lib.EncoderDecoderModel(
    copying.copying_model().module, rows_per_pack=()
  )
  row = np.ones((1, 2), np.int32)
  params = model.module.init(
    jax.random.key(5), row, row, row, enable_dropout=False
  )['params']
  # Wide apart, so that confidences differ and some tokens leave early.
  return model, jax.tree.map(lambda x: 3 * x, params)


def evaluation(model, **options):
  return infer_eval.InferEvaluation(
    model=model,
    mixture_or_task_name=TASK,
    task_feature_lengths=LENGTHS,
    batch_size=2,
    threshold=0.3,
    **options,
  )


def lines_of(path):
  def refuse(name):
    raise AssertionError(f'{name} is no JSON')

  return [
    json.loads(line, parse_constant=refuse)
    for line in path.read_text().splitlines()
  ]


def test_outputs_exits_and_confidences_are_the_models(
  model_and_params, tmp_path, monkeypatch
):
  model, params = model_and_params
  decodings = []
  decode = infer_eval.InferEvaluation._decode
  monkeypatch.setattr(
    infer_eval.InferEvaluation,
    '_decode',
    lambda *args: decodings.append(1) or decode(*args),
  )
  folder = tmp_path / infer_eval.FOLDER
  folder.mkdir()
  # Of a run that was killed later than its last checkpoint.
  (folder / f'{TASK}-metrics.jsonl').write_text('{"step": 2}\n{"step": 6}\n')
  evaluate = evaluation(model).open(tmp_path, 3)
  found = evaluate(4, params)
  assert len(decodings) == 1

  inputs = np.array(
    [[*row, 1, *[0] * (7 - len(row))] for row in sources()], np.int32
  )
  result = jax.jit(
    lambda inputs: model.generate(
      params,
      model.request(inputs, np.full(NUM_EXAMPLES, 0.3), max_decode_length=40),
    )
  )(inputs)
  is_token = np.asarray(result.num_layers_used) > 0
  exits = np.where(is_token, result.num_layers_used, -1)
  confidences = np.where(is_token, result.confidences, -1)
  assert 1 < len(np.unique(exits[exits > 0])), 'choose other parameters'

  examples = lines_of(folder / f'{TASK}-000004.jsonl')
  assert len(examples) == NUM_EXAMPLES
  for i, example in enumerate(examples):
    assert example['input']['inputs'] == [*sources()[i].tolist(), 1]
    assert example['aux_exits'] == exits[i].tolist()
    assert len(example['aux_confidences']) == 40
    np.testing.assert_allclose(
      example['aux_confidences'], confidences[i], atol=1e-5
    )
    np.testing.assert_allclose(example['aux_scores'], result.log_probs[i], 1e-4)
    row = np.asarray(result.tokens[i]).tolist()
    end = row.index(1) + 1 if 1 in row else len(row)
    assert example['prediction'][:end] == row[:end]

  before, line = lines_of(folder / f'{TASK}-metrics.jsonl')
  assert before == {'step': 2}
  assert line['step'] == 4 and line['undefined'] is None
  mean = exits[exits > 0].mean()
  assert line['layers_per_token'] == pytest.approx(mean)
  assert found[TASK]['layers_per_token'] == pytest.approx(mean)
  assert math.isnan(found[TASK]['undefined'])
  assert list(folder.glob(f'{TASK}/events*'))
  # seqio does not make the folder that it writes to.
  evaluation(model).open(tmp_path / 'new', 0)
  assert (tmp_path / 'new' / infer_eval.FOLDER).is_dir()


def test_whatever_a_task_holds_is_strict_json():
  from calm_jax.training import seqio_logs

  value = {
    'text': 'é'.encode(),
    'bytes': b'\xff',
    'objects': np.array([b'a', b'b'], object),
    'numbers': np.float32([1.5, np.inf]),
    'many': np.arange(100),
    'one': np.float64('nan'),
    'nested': [np.int32(3), (True, None)],
  }
  text = json.dumps(value, cls=seqio_logs.StrictEncoder, allow_nan=False)
  assert json.loads(text) == {
    'text': 'é',
    'bytes': '/w==',
    'objects': ['a', 'b'],
    'numbers': [1.5, None],
    'many': list(range(100)),
    'one': None,
    'nested': [3, [True, None]],
  }


def test_the_gin_file_describes_it():
  gin_setup.parse(
    ['gin/experiments/tiny.gin', 'gin/runs/infer_eval.gin'],
    [
      'INFER_EVAL_THRESHOLD = 0.5',
      f'MIXTURE_OR_TASK_NAME = "{TASK}"',
      'infer_eval.InferEvaluation.decode_fn = @beam_search.BeamSearch()',
      'beam_search.BeamSearch.alpha = 0.2',
    ],
  )
  found = gin_setup.call(infer_eval.InferEvaluation)
  assert found.model.config.vocab_size == 4096
  assert (found.threshold, found.num_examples) == (0.5, 8)
  assert found.mixture_or_task_name == TASK
  assert found.decode_fn == beam_search.BeamSearch(0.2)


def test_the_best_beam_is_evaluated(model_and_params, tmp_path):
  model, params = model_and_params
  searching = dataclasses.replace(
    evaluation(model),
    threshold=1.0,
    decode_fn=beam_search.BeamSearch(0.2),
    num_decodes=3,
  )
  searching.open(tmp_path, 0)(1, params)
  inputs = np.array(
    [[*row, 1, *[0] * (7 - len(row))] for row in sources()], np.int32
  )
  tokens, scores = jax.jit(
    lambda inputs: tiny_t5.search(
      model, params, inputs, 3, 0.2, max_decode_length=40
    )
  )(inputs)
  folder = tmp_path / infer_eval.FOLDER
  examples = lines_of(folder / f'{TASK}-000001.jsonl')
  assert len(examples) == NUM_EXAMPLES
  for i, example in enumerate(examples):
    row = np.asarray(tokens[i, -1]).tolist()
    end = row.index(1) + 1 if 1 in row else len(row)
    assert example['prediction'][:end] == row[:end]
    np.testing.assert_allclose(example['aux_scores'], scores[i, -1], 1e-4)
    assert 'aux_exits' not in example


@pytest.mark.parametrize(
  'options, said',
  [
    ({'split': 'validatoin'}, 'must have a split'),
    ({'num_examples': None, 'threshold': 1.5}, r'in \[0, 1\]'),
    ({'num_decodes': 2}, 'needs a sampler'),
  ],
)
def test_what_cannot_be_evaluated_is_told(
  options, said, model_and_params, tmp_path
):
  options = {'threshold': 1.0, **options}
  with pytest.raises(errors.ConfigError, match=said):
    infer_eval.InferEvaluation(
      model=model_and_params[0],
      mixture_or_task_name=TASK,
      task_feature_lengths=LENGTHS,
      **options,
    ).open(tmp_path, 0)
  assert not list(tmp_path.iterdir())
