"""The commands in the headers of CALM's experiments, run at tiny sizes.

Everything else is as a user would type it: the shipped files, the same flags,
the vocabulary, the data and the checkpoint to start from under the names that
the headers give them.
"""

import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from testing import tiny_tfds

from calm_jax.checkpoints import to_huggingface
from calm_jax.cli import main
from calm_jax.config import gin_setup
from calm_jax.data import text_tasks, vocabulary
from calm_jax.dump import reader
from calm_jax.records import contracts
from calm_jax.t5 import network

# Texts are cut, as they are at full size.
pytestmark = pytest.mark.filterwarnings('ignore:.*are longer than')

SIZES = {
  'vocab_size': 512,
  'emb_dim': 16,
  'num_heads': 2,
  'head_dim': 8,
  'num_encoder_layers': 1,
  'num_decoder_layers': 2,
  'mlp_dim': 32,
}
MODEL_FLAGS = [
  '--gin.TASK_FEATURE_LENGTHS={"inputs": 32, "targets": 12}',
  *(f'--gin.network.T5Config.{name}={size}' for name, size in SIZES.items()),
  f'--gin.VOCAB_SIZE={SIZES["vocab_size"]}',
  # Packs, of a row each, would double every program.
  '--gin.model.EncoderDecoderModel.rows_per_pack=()',
]
SMALLER = {
  'train': [
    *MODEL_FLAGS,
    '--gin.TRAIN_STEPS=2',
    '--gin.BATCH_SIZE=4',
    '--gin.EVAL_PERIOD=2',
    '--gin.CHECKPOINT_PERIOD=2',
  ],
  'dump': MODEL_FLAGS,
  'evaluate': [*MODEL_FLAGS, '--timed_repeats=1'],
}
STAGES = ['train', 'dump', 'calibrate', 'evaluate', 'report']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder as docs/tasks.md describes it: data, vocabulary, checkpoint."""
  folder = tmp_path_factory.mktemp('experiments')
  tiny_tfds.write(folder / 'data')
  vocabulary.train_vocabulary(
    folder / 't5.model', vocab_size=325, sentences=tiny_tfds.texts()
  )
  config = network.T5Config(mlp_activations=('gelu', 'linear'), **SIZES)
  tokens = jnp.ones((1, 2), jnp.int32)
  variables = network.Transformer(config).init(
    jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  )
  to_huggingface.save(
    folder / 't5_1_1_small' / 'checkpoint_1000000', variables['params'], config
  )
  return folder


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
  """The experiments have programs in common at these sizes."""
  wanted = {
    'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('programs')),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in wanted}

  def use(values):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()

  use(wanted)
  yield
  use(before)


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setattr(text_tasks, '_added', dict(text_tasks._added))


def commands_of(name):
  """The commands that start with calm in the header of an experiment."""
  path = gin_setup.gin_root() / 'gin' / 'experiments' / f'{name}.gin'
  header = path.read_text('utf-8').partition('from __gin__')[0]
  text = re.sub(r'\\\n# *', '', re.sub(r'^# *', '#', header, flags=re.M))
  text = re.sub(r'\\\n#', ' ', text)
  lines = [x[1:] for x in text.splitlines() if x.startswith('#calm ')]
  return [shlex.split(line)[1:] for line in lines]


def run(command, capsys):
  stage = command[0]
  code = main.main([*command, *SMALLER.get(stage, [])])
  captured = capsys.readouterr()
  assert code == 0, captured.err
  return captured.out


def check_dumps(dump_dir, task, metric):
  for split in ('calibration', 'test'):
    manifest, dump = reader.read_dump(dump_dir / split)
    assert (manifest.task, manifest.split) == (task, split)
    assert manifest.metric == metric
    # Every token through both layers at 1, out at the first exit at 0.
    used = dump.num_layers_used
    assert set(used[:, 0].ravel()) - {0} == {2}
    assert 1 in used[:, -1]


def check_evaluation(name, task, metric, baseline, scores):
  result = contracts.read_json(
    pathlib.Path(f'runs/{name}_evaluation.json'), contracts.EvaluationResult
  )
  assert (result.task, result.split, result.metric) == (task, 'test', metric)
  assert result.baselines.keys() == {baseline}
  assert result.full.split_scores.keys() == scores
  # Fourteen texts certify nothing, so both are the full model.
  assert result.full.mean_layers == result.calibrated.mean_layers == 2.0


@pytest.mark.parametrize(
  ('name', 'task', 'metric', 'baseline', 'scores'),
  [
    (
      'cnn_dm',
      'cnn_dailymail_v002',
      'rouge_l',
      'first_three_sentences',
      {'rouge1', 'rouge2', 'rougeLsum'},
    ),
    ('wmt15_en_fr', 'wmt15_enfr_v003', 'chrf', 'input_copied', {'bleu'}),
  ],
  ids=['cnn_dm', 'wmt15_en_fr'],
)
def test_a_row_of_table_2_by_the_header_s_commands(
  name, task, metric, baseline, scores, capsys
):
  *row, classifier = commands_of(f'{name}_small')
  assert [command[0] for command in row] == STAGES
  assert classifier[0] == 'train'
  printed = [run(command, capsys) for command in row]
  check_dumps(pathlib.Path(f'runs/{name}_dump'), task, metric)
  check_evaluation(name, task, metric, baseline, scores)
  assert 'softmax gap' in printed[-1] and task in printed[-1]
  assert (pathlib.Path(f'runs/{name}_report') / 'index.html').stat().st_size


def test_all_six_stages_with_a_trained_classifier(capsys):
  train, dump, calibrate, evaluate, report, stage_2 = commands_of('squad_small')
  with_it = [
    '--gin_file=gin/early_exit/classifier_linear.gin',
    '--gin.NORM=False',
    '--model=runs/squad_classifier',
  ]
  run(train, capsys)
  assert 'auroc of linear' in run(stage_2, capsys)
  run([*dump, *with_it], capsys)
  assert 'squad_f1' in run(calibrate, capsys)
  assert 'SQuAD F1 of all, in percent' in run([*evaluate, *with_it], capsys)
  assert 'linear classifier' in run(report, capsys)
  task = 'squad_v010_allanswers'
  check_dumps(pathlib.Path('runs/squad_dump'), task, 'squad_f1')
  check_evaluation('squad', task, 'squad_f1', 'input_copied', {'em', 'f1'})


@pytest.mark.parametrize('name', ['cnn_dm', 'wmt15_en_fr', 'squad'])
def test_the_base_experiment_names_the_same_folders(name):
  (train,) = commands_of(f'{name}_base')
  assert f'--gin.MODEL_DIR="runs/{name}_base"' in train
