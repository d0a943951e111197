"""Settings that are wrong: exit code 2, before anything is computed."""

import sys

import pytest

from calm_jax import errors
from calm_jax.config import gin_setup

TINY = '--gin_file=gin/experiments/tiny.gin'


@pytest.fixture
def train_fails(short_corpus, fails, tmp_path):
  """Runs `calm train` on the tiny experiment; it must leave no folder."""

  def call(*args, code=2):
    folder = tmp_path / 'model'
    message = fails(code, 'train', TINY, f'--gin.MODEL_DIR="{folder}"', *args)
    assert not folder.exists()
    return message

  return call


def test_fault_01_a_mistyped_macro(train_fails):
  message = train_fails('--gin.BACTH_SIZE=4')
  assert 'BACTH_SIZE is never used; did you mean BATCH_SIZE?' in message


@pytest.mark.parametrize('dtype', ['float16', 'float99'])
def test_a_type_that_a_network_cannot_compute_in(train_fails, dtype):
  message = train_fails(f"--gin.DTYPE='{dtype}'")
  assert f"dtype must be 'float32' or 'bfloat16', got '{dtype}'" in message


def test_fault_02_an_unquoted_string(fails):
  message = fails(2, 'train', TINY, '--gin.MODEL_DIR=/tmp/x')
  assert """write --gin.MODEL_DIR='"/tmp/x"'.""" in message


def test_fault_03_all_missing_macros_at_once(fails):
  files = ('gin/models/t5_1_1_tiny.gin', 'gin/runs/train.gin')
  message = fails(2, 'train', *(f'--gin_file={x}' for x in files))
  for name in ('MIXTURE_OR_TASK_NAME', 'MODEL_DIR', 'TRAIN_STEPS'):
    assert f'--gin.{name}=' in message, 'an example of each'


def test_fault_04_a_gin_file_that_is_not_there(fails, tmp_path):
  message = fails(
    2,
    'train',
    '--gin_file=gin/experiments/docstring.gin',
    f'--gin_search_paths={tmp_path}',
  )
  assert 'Did you mean gin/experiments/docstrings.gin?' in message
  assert str(tmp_path) in message and str(gin_setup.gin_root()) in message


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('network.T5Confg.emb_dim = 3', 'has no T5Confg. Did you mean T5Config?'),
    ('network.T5Config.emb_dm = 3', 'Did you mean emb_dim?'),
  ],
)
def test_fault_05_an_unknown_name_with_file_and_line(
  text, said, fails, tmp_path
):
  path = tmp_path / 'mine.gin'
  path.write_text(
    'from __gin__ import dynamic_registration\n'
    f'from calm_jax.t5 import network\n\n{text}\n'
  )
  message = fails(2, 'train', f'--gin_file={path}')
  assert f'{path}:4: `{text}`' in message and said in message


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ("TRAIN_STEPS='3'", "must be of type int, as its default 4, got '3'"),
    ('TRAIN_STEPS=2.5', 'must be of type int'),
    ('TRAIN_STEPS=-1', 'must be at least 1, got -1'),
    ('BATCH_SIZE=0', 'must be at least 1, got 0'),
    ('LOG_PERIOD=0', 'must be at least 1 step, got 0'),
  ],
)
def test_fault_06_a_value_of_the_wrong_kind(binding, said, train_fails):
  assert said in train_fails(f'--gin.{binding}')


def test_fault_07_a_confidence_that_is_none(train_fails):
  measure = 'model.EncoderDecoderModel.measure'
  message = train_fails(f"--gin.{measure}='softmax'")
  assert "got 'softmax'" in message
  assert 'gin/early_exit/' in message and "T5X's CONF_METHOD" in message
  message = train_fails(f'--gin.{measure}=@softmax.SoftmaxTopTwoGap')
  assert 'call it: SoftmaxTopTwoGap()' in message
  softmax = '--gin_file=gin/early_exit/softmax.gin'
  message = train_fails(softmax, f'--gin.{measure}=@softmax.SoftmaxTopGap()')
  assert 'Did you mean softmax.SoftmaxTopTwoGap?' in message


def test_fault_07_a_consistency_that_is_none(run_calibrate):
  code, _, message = run_calibrate('--consistency=text')
  assert code == 2 and "Did you mean 'textual'?" in message


@pytest.mark.parametrize('value', ['1.5', '-0.1', 'nan'])
@pytest.mark.parametrize('stage', ['generate', 'infer', 'dump'])
def test_fault_08_a_threshold_outside_0_1(stage, value, fails, tmp_path):
  if stage == 'dump':
    flag = f'--thresholds=1,{value}'
  else:
    flag = f'--threshold={value}'
  rest = ['a text'] if stage == 'generate' else [f'--output_dir={tmp_path}/o']
  message = fails(2, stage, flag, *rest)
  assert 'threshold' in message and value in message
  assert not (tmp_path / 'o').exists()


@pytest.mark.parametrize(
  ('binding', 'said'),
  [
    ('FIRST_EXIT=9', 'first_exit'),
    ('MIN_EXIT=4', 'min_exit'),
    ('EXIT_INTERVAL=0', 'exit_interval'),
  ],
)
def test_fault_09_exits_that_the_model_lacks(binding, said, train_fails):
  exits = '--gin_file=gin/early_exit/exits.gin'
  message = train_fails(exits, f'--gin.{binding}')
  name, value = binding.split('=')
  assert said in message and value in message
  assert '3' in message or name == 'EXIT_INTERVAL', 'the number of layers'


@pytest.mark.parametrize(
  ('k', 'said'), [(0, 'at least 2'), (5000, 'at most 4096')]
)
def test_fault_10_top_k_out_of_range(k, said, train_fails):
  top_k = '--gin_file=gin/early_exit/top_k.gin'
  message = train_fails(top_k, f'--gin.TOP_K=({k},)')
  assert said in message and str(k) in message


def test_fault_11_top_k_where_no_measure_uses_it(train_fails):
  # K is a knob of one measure, so that another has nothing to ignore.
  state = '--gin_file=gin/early_exit/state.gin'
  assert 'TOP_K is never used' in train_fails(state, '--gin.TOP_K=8')


def test_fault_27_spellings_of_a_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  for text in ('~/runs/a', '~//runs/a/', 'runs//a/', './runs/a'):
    gin_setup.parse(['gin/experiments/tiny.gin'], [f'MODEL_DIR = "{text}"'])
    found = gin_setup.absolute_path_macro('MODEL_DIR')
    assert found == tmp_path / 'runs' / 'a', text


def test_fault_40_an_unknown_task(train_fails, fails, tmp_path):
  task = 'docstring_restoratoin'
  message = train_fails(f'--gin.MIXTURE_OR_TASK_NAME="{task}"')
  assert "Did you mean 'docstring_restoration'?" in message
  message = fails(2, 'dump', f'--task={task}', f'--output_dir={tmp_path}/d')
  assert "Did you mean 'docstring_restoration'?" in message


@pytest.mark.parametrize(
  ('content', 'said'),
  [
    (None, "No module named 'my_task'"),
    ('import not_installed', "No module named 'not_installed'"),
    ('1 / 0', 'ZeroDivisionError: division by zero'),
  ],
)
def test_fault_40_the_module_of_a_task_fails(
  content, said, fails, tmp_path, monkeypatch
):
  monkeypatch.setattr(sys, 'path', [*sys.path])  # It gets the search path.
  if content is not None:
    (tmp_path / 'my_task.py').write_text(content)
  (tmp_path / 'mine.gin').write_text('import my_task\n')
  message = fails(
    2, 'train', '--gin_file=mine.gin', f'--gin_search_paths={tmp_path}'
  )
  assert 'mine.gin:1: `import my_task`' in message and said in message


def test_fault_42_a_name_of_tfds_in_place_of_a_task(fails, tmp_path):
  args = '--task=cnn_dailymail/3.4.0', f'--output_dir={tmp_path}/d'
  assert "Did you mean 'cnn_dailymail_v002'?" in fails(2, 'dump', *args)


def test_fault_49_more_partitions_than_devices(train_fails):
  name = 'partitioning.PjitPartitioner.num_partitions'
  message = train_fails(f'--gin.{name}=3')
  assert 'Valid: 1.' in message and 'Devices: cpu:0' in message


def test_a_message_is_for_people_and_a_traceback_for_those_who_ask(
  capsys, tmp_path
):
  from calm_jax.cli import main

  args = ['dump', '--task=nothing', f'--output_dir={tmp_path}/d', '--v=1']
  assert main.main(args) == errors.ConfigError.exit_code
  assert 'Traceback' in capsys.readouterr().err
