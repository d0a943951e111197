"""`calm train`, and what other stages make of its checkpoints."""

import json
import os

import jax
import numpy as np
import pytest

import calm_jax
from calm_jax.checkpoints import orbax_io
from calm_jax.cli import main
from calm_jax.config import gin_setup
from calm_jax.dump import reader
from calm_jax.records import folder_lock

TINY = '--gin_file=gin/experiments/tiny.gin'


pytestmark = pytest.mark.usefixtures('short_corpus')


@pytest.fixture(scope='module')
def model_dir(short_corpus, tmp_path_factory):
  """MODEL_DIR of a run of four steps."""
  path = tmp_path_factory.mktemp('train') / 'model'
  assert main.main(['train', TINY, f'--gin.MODEL_DIR="{path}"']) == 0
  return path


def steps_in(model_dir):
  lines = (model_dir / 'train' / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line)['step'] for line in lines]


def test_train_writes_checkpoints_metrics_and_its_configuration(model_dir):
  assert (model_dir / 'checkpoint_4').is_dir()
  assert steps_in(model_dir)[-1] == 4
  assert (model_dir / 'training_eval' / 'metrics.jsonl').is_file()
  gin_setup.parse([str(model_dir / 'config.gin')], [])
  assert gin_setup.macro('TRAIN_STEPS') == 4


def test_the_same_command_with_more_steps_resumes(model_dir, capsys):
  args = [f'--gin.MODEL_DIR="{model_dir}"', '--gin.TRAIN_STEPS=6']
  assert main.main(['train', TINY, *args]) == 0
  captured = capsys.readouterr()
  assert 'steps 4 to 6' in captured.out + captured.err
  assert (model_dir / 'checkpoint_6').is_dir()
  assert steps_in(model_dir)[-1] == 6


def test_dump_of_a_checkpoint(model_dir, tmp_path, capsys):
  code = main.main(
    [
      'dump',
      TINY,
      f'--model={model_dir}/checkpoint_4',
      f'--output_dir={tmp_path}/dump',
      '--max_examples=5',
      '--thresholds=1,0.5,0',
      '--gin.TASK_FEATURE_LENGTHS={"inputs": 24, "targets": 8}',
    ]
  )
  assert code == 0, capsys.readouterr().err
  manifest, data = reader.read_dump(tmp_path / 'dump')
  assert manifest.num_examples == 5
  assert manifest.model.max_decode_length == 8
  assert manifest.task == 'docstring_restoration'
  assert (data.num_layers_used[:, 2] <= 1).all()  # threshold 0


def test_export_of_a_checkpoint_is_a_model_folder(model_dir, tmp_path, capsys):
  checkpoint = f'{model_dir}/checkpoint_4'
  args = [f'--model={checkpoint}', f'--output_dir={tmp_path}/model']
  assert main.main(['export', TINY, *args, '--about=four steps']) == 0
  generator = calm_jax.load(f'{tmp_path}/model')
  jax.tree.map(
    lambda exported, trained: np.testing.assert_array_equal(
      exported, trained.astype(np.float16).astype(np.float32)
    ),
    generator.params,
    orbax_io.restore_params(checkpoint),
  )
  assert generator.max_decode_length == 64
  assert 'four steps' in (tmp_path / 'model' / 'config.json').read_text()
  capsys.readouterr()
  args = [f'--model={tmp_path}/model', '--format=text', 'it works']
  assert main.main(['generate', *args]) == 0
  assert 'of 3 decoder layers per token' in capsys.readouterr().err


def test_export_needs_the_gin_file_of_the_model(tmp_path, capsys):
  code, message = failure(capsys, 'export', f'--output_dir={tmp_path}/model')
  assert code == 2 and '--gin_file=' in message
  assert not (tmp_path / 'model').exists()


def failure(capsys, *args):
  code = main.main(args)
  message = capsys.readouterr().err
  assert message.startswith(f'calm {args[0]}: error: ')
  return code, message


def test_train_needs_a_gin_file(capsys):
  code, message = failure(capsys, 'train')
  assert code == 2 and '--gin_file=gin/experiments/docstrings.gin' in message


def content_of(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.parametrize(
  ('binding', 'expected'),
  [
    ('--gin.TRAIN_STEPS=2', 'got 2'),
    ('--gin.MIXTURE_OR_TASK_NAME="docstring"', 'docstring_restoration'),
    ('--gin.network.T5Config.mlp_dim=64', 'mlp_dim was 32 and is now 64'),
    ('--gin.BATCH_SIZE=4', 'BATCH_SIZE was 8 and is now 4'),
    ('--gin.RANDOM_SEED=1', 'RANDOM_SEED was 0 and is now 1'),
    ('--gin.VOCAB_SIZE=4224', 'VOCAB_SIZE was 4096 and is now 4224'),
  ],
)
def test_fault_57_a_refused_run_changes_nothing(
  binding, expected, model_dir, capsys
):
  before = content_of(model_dir)
  args = [f'--gin.MODEL_DIR="{model_dir}"', '--gin.TRAIN_STEPS=8', binding]
  code, message = failure(capsys, 'train', TINY, *args)
  assert code in (2, 3) and expected in message
  assert 'configurable' not in message
  assert content_of(model_dir) == before


def test_another_size_is_refused_even_where_changes_are_allowed(
  model_dir, capsys
):
  args = [f'--gin.MODEL_DIR="{model_dir}"', '--gin.TRAIN_STEPS=8']
  args += ['--gin.network.T5Config.mlp_dim=64', '--allow_config_changes']
  before = content_of(model_dir)
  code, message = failure(capsys, 'train', TINY, *args)
  assert code == 3 and 'wi' in message
  assert content_of(model_dir) == before


def test_fault_56_a_second_run_in_the_folder_of_a_running_one(
  model_dir, capsys
):
  lock = folder_lock.lock(model_dir, 'run')
  before = content_of(model_dir)
  args = [f'--gin.MODEL_DIR="{model_dir}"', '--gin.TRAIN_STEPS=8']
  code, message = failure(capsys, 'train', TINY, *args)
  assert code == 4 and 'Another process is writing the run' in message
  assert f'(process {os.getpid()} on' in message
  assert content_of(model_dir) == before
  lock.close()


def test_a_run_that_is_refused_at_once_leaves_no_folder(tmp_path, capsys):
  args = [f'--gin.MODEL_DIR="{tmp_path}/model"']
  task = '--gin.MIXTURE_OR_TASK_NAME="docstring"'
  code, _ = failure(capsys, 'train', TINY, task, *args)
  assert code == 2 and not list(tmp_path.iterdir())


def test_fault_52_train_refuses_a_file_as_its_folder(tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  args = [f'--gin.MODEL_DIR="{tmp_path}/file/model"']
  code, message = failure(capsys, 'train', TINY, *args)
  assert code == 4 and 'Cannot write' in message and 'config.gin' in message


def test_fault_26_a_missing_checkpoint(tmp_path, capsys):
  args = [f'--model={tmp_path}/none', f'--output_dir={tmp_path}/dump']
  code, message = failure(capsys, 'dump', TINY, *args)
  assert code == 3 and 'none' in message
  assert not (tmp_path / 'dump').exists()


def test_a_model_from_gin_needs_its_checkpoint(tmp_path, capsys):
  code, message = failure(capsys, 'dump', TINY, f'--output_dir={tmp_path}/d')
  assert code == 2 and '--model=' in message


def test_fault_28_a_checkpoint_of_another_size(model_dir, tmp_path, capsys):
  args = [f'--model={model_dir}', f'--output_dir={tmp_path}/dump']
  code, message = failure(
    capsys, 'dump', TINY, '--gin.network.T5Config.mlp_dim=64', *args
  )
  assert code == 3 and 'wi' in message
  assert not (tmp_path / 'dump').exists()
