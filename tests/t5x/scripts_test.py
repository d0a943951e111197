"""The model under T5X's own scripts, and the gin files that bind it.

The runs need T5X and are skipped without it; docs/t5x.md tells what they were
last seen to pass with. They take minutes:

    python -m pytest tests/t5x/scripts_test.py
"""

import importlib
import importlib.util
import inspect
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

import gin
import jax
import numpy as np
import pytest
from gin import config_parser

from calm_jax import errors
from calm_jax.checkpoints import load, param_trees
from calm_jax.config import gin_setup
from calm_jax.data import file_tasks, seqio_tasks, vocabulary
from calm_jax.early_exit.measures import classifiers
from calm_jax.t5x import models
from calm_jax.training import classifier_step, loop, optimizers, state

_T5X = importlib.util.find_spec('t5x')
# The folder tests/t5x looks like a package of that name, without a file.
HAS_T5X = _T5X is not None and _T5X.origin is not None
MODEL_FILE = 'gin/models/t5_1_1_tiny.gin'
GIN_FILES = sorted((gin_setup.gin_root() / 'gin' / 't5x').glob('*.gin'))

# --- Without T5X: what the files say of our side ------------------------------


class Reference(NamedTuple):
  name: str


class Delegate(config_parser.ParserDelegate):
  """Keeps names as they stand."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Reference(scoped_configurable_name.split('/')[-1])

  def macro(self, macro_name):
    return None


def statements(path):
  return list(config_parser.ConfigParser(path.read_text('utf-8'), Delegate()))


def bindings_of(path):
  kind = config_parser.BindingStatement
  return [x for x in statements(path) if isinstance(x, kind)]


def references(value):
  if isinstance(value, Reference):
    return [value.name]
  if isinstance(value, (list, tuple)):
    return [name for part in value for name in references(part)]
  return []


@pytest.mark.parametrize('path', GIN_FILES, ids=lambda path: path.stem)
def test_names_on_our_side_exist(path):
  modules = {}
  for x in statements(path):
    if isinstance(x, config_parser.IncludeStatement):
      is_ours = x.filename.startswith('gin/')
      assert not is_ours or (gin_setup.gin_root() / x.filename).is_file()
      assert is_ours or x.filename.startswith('t5x/configs/runs/')
    elif isinstance(x, config_parser.ImportStatement):
      if x.module.startswith('calm_jax'):
        name = x.alias or x.module.rpartition('.')[2]
        modules[name] = importlib.import_module(x.module)
  bindings = bindings_of(path)
  assert modules or not bindings
  for x in bindings:
    for name in (x.selector, *references(x.value)):
      module, _, attribute = name.partition('.')
      if module in modules:
        found = getattr(modules[module], attribute)
        if name == x.selector:
          assert x.arg_name in inspect.signature(found).parameters, x


def test_the_check_sees_what_is_bound():
  path = next(path for path in GIN_FILES if path.stem == 'train_classifier')
  bound = bindings_of(path)
  assert 'classifiers.Attention' in [
    name for x in bound for name in references(x.value)
  ]
  assert ('classifier_step.ClassifierObjective', 'skip_prob') in [
    (x.selector, x.arg_name) for x in bound
  ]


def our_model(*more_files):
  gin_setup.parse([MODEL_FILE, *more_files], ['DROPOUT_RATE = 0.0'])
  model = gin_setup.macro('MODEL')
  gin.clear_config()
  return model


class Vocabulary(NamedTuple):
  vocab_size: int
  eos_id: int = 1


def test_a_vocabulary_must_fit_the_embedding():
  with pytest.raises(errors.ConfigError, match='at least 4097'):
    models.T5XModel(our_model(), Vocabulary(10), Vocabulary(4097), None)


@pytest.mark.skipif(HAS_T5X, reason='T5X is installed')
def test_missing_t5x_is_named():
  with pytest.raises(errors.ConfigError, match='docs/t5x.md'):
    models.T5XModel(our_model(), Vocabulary(10), Vocabulary(10), None)


def test_stage_2_takes_parameters_alone_unless_it_resumes():
  saved = {'target': {'a': 1}, 'state': {'step': 5}}
  assert models.without_optimizer_state(saved, {}) == {'target': {'a': 1}}
  assert models.without_optimizer_state(saved, {}, is_resuming=True) == saved


# --- With T5X -----------------------------------------------------------------

with_t5x = [
  pytest.mark.skipif(not HAS_T5X, reason='T5X is not installed'),
  pytest.mark.timeout(2400),
]

SOFTMAX_FILE = 'gin/early_exit/softmax.gin'
ATTENTION_FILE = 'gin/early_exit/classifier_attention.gin'
LENGTHS = {'inputs': 16, 'targets': 16}
BATCH_SIZE = 8
STEPS = 5
SEED = 0
THRESHOLD = 0.001  # Far from 1: five steps leave a model that knows nothing.
TASK = """
include 'gin/tasks/file.gin'
TASK_NAME = 'sorting'
TASK_FILES = '{files}'
TASK_FEATURE_LENGTHS = {lengths}
BATCH_SIZE = {batch_size}
RANDOM_SEED = {seed}
DROPOUT_RATE = 0.0
"""
# One order of rows for both trainers, and losses per token as ours are.
AS_OURS = {
  'train/utils.DatasetConfig.pack': False,
  'train/utils.DatasetConfig.shuffle': False,
  'LOSS_NORMALIZING_FACTOR': 'NUM_REAL_TARGET_TOKENS',
  'utils.SaveCheckpointConfig.period': STEPS,
  'train.stats_period': 1,
  'train.eval_period': STEPS,
  'train.eval_steps': 1,
}


class Runs(NamedTuple):
  """Folders of the runs, and the task that they read."""

  folder: pathlib.Path
  task: file_tasks.FileTask

  def t5x(self, script, run_file, *more_files, **macros):
    """python -m t5x.SCRIPT with a file of gin/t5x."""
    files = [MODEL_FILE, f'gin/t5x/{run_file}.gin', 'task.gin', *more_files]
    flags = [f'--gin_file={name}' for name in files]
    flags += [f'--gin.{name}={value!r}' for name, value in macros.items()]
    result = subprocess.run(
      [
        *(sys.executable, '-m', f't5x.{script}'),
        f'--gin_search_paths=.,{gin_setup.gin_root()}',
        *flags,
      ],
      cwd=self.folder,
      capture_output=True,
      text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]

  def train(self, run_file, name, *more_files, **macros):
    self.t5x(
      'train',
      run_file,
      *more_files,
      MODEL_DIR=str(self.folder / name),
      **{**AS_OURS, 'TRAIN_STEPS': STEPS, **macros},
    )
    return self.folder / name

  def infer(self, measure_file, checkpoint, threshold):
    """The lines of the JSONL file."""
    name = pathlib.Path(measure_file).stem
    self.t5x(
      'infer',
      'infer',
      measure_file,
      THRESHOLD=threshold,
      CHECKPOINT_PATH=str(checkpoint),
      INFER_OUTPUT_DIR=str(self.folder / name),
      **{'utils.DatasetConfig.batch_size': BATCH_SIZE},
    )
    file = 'sorting-predict_with_aux.jsonl-00000-of-00001'
    text = (self.folder / name / file).read_text('utf-8')
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('t5x_runs')
  rng = np.random.default_rng(0)
  words = 'a b c red blue green house tree cat dog runs sees the of and'.split()
  with (folder / 'pairs.jsonl').open('w') as file:
    for _ in range(400):
      chosen = rng.choice(words, rng.integers(3, 9)).tolist()
      pair = {'inputs': ' '.join(chosen), 'targets': ' '.join(sorted(chosen))}
      file.write(json.dumps(pair) + '\n')
  files = str(folder / 'pairs.jsonl')
  (folder / 'task.gin').write_text(
    TASK.format(files=files, lengths=LENGTHS, batch_size=BATCH_SIZE, seed=SEED)
  )
  return Runs(folder, file_tasks.FileTask(name='sorting', files=files))


@pytest.fixture(scope='module')
def stage1(runs):
  return runs.train('pretrain', 'stage1')


@pytest.fixture(scope='module')
def stage2(runs, stage1):
  return runs.train(
    'train_classifier',
    'stage2',
    # The sizes that the measure will ask for.
    ATTENTION_FILE,
    INITIAL_CHECKPOINT_PATH=str(stage1 / f'checkpoint_{STEPS}'),
  )


def params_of(model_dir, step_number, model):
  path = model_dir / f'checkpoint_{step_number}'
  return load.load_model(path, model.config).params


def t5x_init_rng():
  """The key from which `t5x.train` draws parameters."""
  return jax.random.split(jax.random.PRNGKey(SEED))[0]


def batches(task):
  """seqio's, in the order of the task's examples."""
  import seqio

  task.add_to_seqio()
  dataset = seqio.get_dataset(
    task.name,
    LENGTHS,
    seqio.EncDecFeatureConverter(pack=False),
    dataset_split='train',
    shuffle=False,
  )
  rows = dataset.repeat().batch(BATCH_SIZE).take(STEPS).as_numpy_iterator()
  return [seqio_tasks._to_arrays(features) for features in rows]


def logged(model_dir, name):
  """A metric of every step of a run of T5X's."""
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util

  events = event_accumulator.EventAccumulator(
    str(model_dir / 'train'), size_guidance={'tensors': 0}
  )
  events.Reload()
  found = events.Tensors(name)
  assert [x.step for x in found] == list(range(1, STEPS + 1))
  return [float(tensor_util.make_ndarray(x.tensor_proto)) for x in found]


class TestStage1:
  pytestmark = with_t5x

  def test_parameters_are_drawn_as_ours(self, runs, stage1):
    model = our_model()
    batch = batches(runs.task)[0]
    optimizer = optimizers.adafactor()
    ours = state.create(model.module, optimizer, t5x_init_rng(), batch)
    theirs = param_trees.flatten(params_of(stage1, 0, model))
    for name, array in param_trees.flatten(ours.params).items():
      np.testing.assert_allclose(theirs[name], array, rtol=1e-6, err_msg=name)

  def test_losses_are_our_trainers(self, runs, stage1, tmp_path):
    schedule = optimizers.create_learning_rate_scheduler(
      'constant * rsqrt_decay', base_learning_rate=1.0, warmup_steps=10000
    )
    model = our_model()
    last = loop.train(
      model,
      lambda start: iter(batches(runs.task)[start:]),
      optimizers.adafactor(schedule),
      tmp_path,
      STEPS,
      periods=loop.Periods(log=1),
      initial_checkpoint_path=stage1 / 'checkpoint_0',
    )
    lines = (tmp_path / 'train' / 'metrics.jsonl').read_text().splitlines()
    ours = [json.loads(line) for line in lines]
    for name in (
      'loss',
      'z_loss',
      'cross_ent_loss',
      'accuracy',
      'learning_rate',
      'loss_per_layer/layer_1',
      'accuracy_per_layer/layer_2',
    ):
      np.testing.assert_allclose(
        logged(stage1, name), [x[name] for x in ours], rtol=1e-5, err_msg=name
      )
    losses = logged(stage1, 'loss')
    assert losses[-1] < losses[0] - 0.01
    theirs = params_of(stage1, STEPS, model)
    tokens = batches(runs.task)[0]
    logits = [
      model.module.apply(
        {'params': params},
        *(
          tokens[name]
          for name in (
            'encoder_input_tokens',
            'decoder_input_tokens',
            'decoder_target_tokens',
          )
        ),
        enable_dropout=False,
      )
      for params in (theirs, jax.device_get(last.params))
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)

  def test_logits_of_a_read_checkpoint_are_t5xs(self, runs, stage1):
    """T5X's own network over what Orbax's own reader gives."""
    import orbax.checkpoint as ocp
    from t5x.examples.t5 import network as t5x_network

    model = our_model()
    path = stage1 / f'checkpoint_{STEPS}' / 'state'
    read = ocp.PyTreeCheckpointer().restore(path)['target']
    fields = {
      name: getattr(model.config, name)
      for name in model.config.__dataclass_fields__
    }
    theirs = t5x_network.Transformer(t5x_network.T5Config(**fields))
    batch = batches(runs.task)[1]
    arguments = [
      batch[name]
      for name in (
        'encoder_input_tokens',
        'decoder_input_tokens',
        'decoder_target_tokens',
      )
    ]
    expected = theirs.apply({'params': read}, *arguments, enable_dropout=False)
    ours = model.module.apply(
      {'params': params_of(stage1, STEPS, model)},
      *arguments,
      enable_dropout=False,
    )
    np.testing.assert_allclose(ours, expected, atol=1e-5)

  def test_finetuning_goes_on_from_a_checkpoint(self, runs, stage1):
    found = runs.train(
      'finetune',
      'finetuned',
      INITIAL_CHECKPOINT_PATH=str(stage1 / f'checkpoint_{STEPS}'),
      TRAIN_STEPS=STEPS + 2,
    )
    assert (found / f'checkpoint_{STEPS + 2}').is_dir()
    evaluated = list((found / 'inference_eval').glob('sorting-metrics.jsonl'))
    assert 'chrf' in evaluated[0].read_text()


class TestStage2:
  pytestmark = with_t5x

  def test_losses_are_our_trainers(self, runs, stage1, stage2):
    model = our_model()
    objective = classifier_step.ClassifierObjective(
      (classifiers.Linear(), classifiers.Attention(head_hidden_dims=(256,)))
    )
    optimizer = optimizers.adafactor(1e-3)
    network = params_of(stage1, STEPS, model)
    rows = batches(runs.task)
    train_state = objective.create_state(
      model.module, optimizer, t5x_init_rng(), rows[0], network
    )
    train_step = objective.make_train_step(model.module, optimizer, SEED)
    ours = []
    for batch in rows:
      train_state, sums = train_step(train_state, batch)
      ours.append({name: float(x) for name, x in sums.items()})
    for name in ('loss', 'loss/linear', 'loss/attention'):
      np.testing.assert_allclose(
        logged(stage2, name), [x[name] for x in ours], rtol=1e-5, err_msg=name
      )

  def test_the_network_stays_bit_by_bit(self, stage1, stage2):
    model = our_model()
    before = param_trees.flatten(params_of(stage1, STEPS, model))
    after = param_trees.flatten(params_of(stage2, STEPS, model))
    for name, array in before.items():
      np.testing.assert_array_equal(after[name], array, err_msg=name)
    first = params_of(stage2, 0, model)['exit_classifiers']
    last = params_of(stage2, STEPS, model)['exit_classifiers']
    moved = jax.tree.map(lambda a, b: (a != b).any(), first, last)
    assert all(jax.tree.leaves(moved))


class TestInference:
  pytestmark = with_t5x

  def check(self, runs, lines, model, params, threshold):
    examples = runs.task.load('test')
    assert len(lines) == len(examples) > BATCH_SIZE
    tokenizer = vocabulary.Tokenizer()
    source = np.zeros((len(examples), LENGTHS['inputs']), np.int32)
    for row, example in zip(source, examples, strict=True):
      ids = tokenizer.encode(example.inputs)[: len(row) - 1] + [1]
      row[: len(ids)] = ids
    exits = []
    generate = jax.jit(
      lambda params, rows: model.generate(
        params,
        model.request(
          rows,
          np.full(BATCH_SIZE, threshold),
          max_decode_length=LENGTHS['targets'],
        ),
      )
    )
    for start in range(0, len(examples), BATCH_SIZE):
      rows = source[start : start + BATCH_SIZE]
      padding = ((0, BATCH_SIZE - len(rows)), (0, 0))
      found = jax.device_get(generate(params, np.pad(rows, padding)))
      for i, line in enumerate(lines[start : start + BATCH_SIZE]):
        example = examples[start + i]
        assert line['inputs']['inputs_pretokenized'] == example.inputs
        assert line['prediction'] == tokenizer.decode(found.tokens[i])
        aux, used = line['aux'], found.num_layers_used[i]
        assert aux['exits'] == np.where(used > 0, used, -1).tolist()
        np.testing.assert_allclose(
          aux['confidences'],
          np.where(used > 0, found.confidences[i], -1),
          rtol=1e-4,
          atol=1e-6,
        )
        np.testing.assert_allclose(aux['scores'], found.log_probs[i], rtol=1e-5)
        exits += aux['exits']
    return set(exits) - {-1}

  def test_predictions_and_exits_are_ours(self, runs, stage1):
    checkpoint = stage1 / f'checkpoint_{STEPS}'
    lines = runs.infer(SOFTMAX_FILE, checkpoint, THRESHOLD)
    model = our_model(SOFTMAX_FILE)
    params = params_of(stage1, STEPS, model)
    assert self.check(runs, lines, model, params, THRESHOLD) == {1, 2, 3}

  def test_trained_classifiers_decide(self, runs, stage2):
    checkpoint = stage2 / f'checkpoint_{STEPS}'
    lines = runs.infer(ATTENTION_FILE, checkpoint, 0.5)
    model = our_model(ATTENTION_FILE)
    params = params_of(stage2, STEPS, model)
    self.check(runs, lines, model, params, 0.5)
