"""A user's file, and CALM's tasks, reach the stages by gin alone."""

import pathlib

import gin
import pytest
from testing import dumps

from calm_jax import errors
from calm_jax.cli import evaluate, loading, main
from calm_jax.config import gin_setup
from calm_jax.data import (
  batches,
  seqio_tasks,
  task_examples,
  task_registry,
  text_tasks,
)
from calm_jax.dump import runner
from calm_jax.training import loop

ROOT = pathlib.Path(__file__).parents[2]
TINY = ['--gin_file=gin/experiments/tiny.gin', '--gin_file=gin/tasks/file.gin']


@pytest.fixture(scope='module', autouse=True)
def forgotten():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(text_tasks, '_added', dict(text_tasks._added))
    yield
  gin.clear_config()


@pytest.fixture(scope='module')
def task_flags(tmp_path_factory):
  path = tmp_path_factory.mktemp('files') / 'numbers.tsv'
  lines = ['question\tanswer']
  lines += [f'what is the number {i}?\tThe number {i}.' for i in range(400)]
  path.write_text('\n'.join(lines), encoding='utf-8')
  return [
    *TINY,
    '--gin.TASK_NAME="numbers"',
    f'--gin.TASK_FILES="{path}"',
    '--gin.TASK_INPUTS="question"',
    '--gin.TASK_TARGETS="answer"',
    '--gin.TASK_METRIC="squad_f1"',
    '--gin.TASK_FEATURE_LENGTHS={"inputs": 16, "targets": 6}',
    '--gin.BUCKET_BOUNDARIES=(16,)',
  ]


def parse(task_flags, *files):
  flags = [flag.partition('=')[::2] for flag in task_flags]
  gin_setup.parse(
    [value for name, value in flags if name == '--gin_file'] + [*files],
    [
      f'{name.removeprefix("--gin.")} = {value}'
      for name, value in flags
      if name.startswith('--gin.')
    ],
  )


def test_training_reads_the_file(task_flags):
  parse([*task_flags, '--gin.MODEL_DIR="unused"'])
  assert gin_setup.macro('MIXTURE_OR_TASK_NAME') == 'numbers'
  source = gin_setup.call(batches.Batches)
  assert source.batch_at(0)['encoder_input_tokens'].shape == (8, 16)
  ((first, count), *_) = gin_setup.call(batches.eval_batches)
  assert 0 < count <= 8 and first['decoder_target_tokens'].shape == (8, 6)


def test_seqio_reads_the_same_file(task_flags):
  parse([*task_flags, '--gin.MODEL_DIR="u"'], 'gin/runs/train_seqio.gin')
  found = gin_setup.call(seqio_tasks.SeqioBatches)
  assert found.mixture_or_task_name == 'numbers'
  assert next(found(0))['encoder_input_tokens'].shape == (8, 16)


def test_a_dump_reads_the_file(task_flags, tmp_path, monkeypatch, capsys):
  dumped = {}

  def run(generator, examples, header, directory, **kwargs):
    dumped.update(header, examples=examples)
    return runner.Outcome(dumps.make_dump(3)[0], is_new=True)

  monkeypatch.setattr(runner, 'run', run)
  monkeypatch.setattr(runner, 'header', lambda _, **fields: fields)
  monkeypatch.setattr(
    loading, 'load', lambda chosen: loading.LoadedModel(None, 'weights')
  )
  args = ['--split=test', f'--output_dir={tmp_path}/d', '--max_examples=4']
  code = main.main(['dump', *task_flags, '--gin.MODEL_DIR="unused"', *args])
  assert code == 0, capsys.readouterr().err
  assert (dumped['task'], dumped['metric']) == ('numbers', 'squad_f1')
  expected = task_registry.find('numbers').load('test')
  assert dumped['examples'] == expected[:4] and len(expected) > 4
  assert all(x.targets.startswith('The number') for x in expected)


def test_an_evaluation_knows_the_baseline_of_a_file(
  task_flags, tmp_path, monkeypatch, run_calibrate
):
  found = {}

  def evaluate_dump(*_, **__):
    found['numbers'] = task_examples.find_task('numbers')
    raise errors.DataError('enough')

  run_calibrate()
  monkeypatch.setattr(text_tasks, '_added', {})
  monkeypatch.setattr(evaluate, 'evaluate_dump', evaluate_dump)
  monkeypatch.setattr(loading, 'load', lambda chosen: None)
  args = [
    f'--dump_dir={tmp_path}/dump',
    f'--calibration={tmp_path}/calibration.json',
    f'--output={tmp_path}/evaluation.json',
  ]
  assert main.main(['evaluate', *task_flags, '--gin.MODEL_DIR="u"', *args]) == 3
  assert found['numbers'].baseline == 'input_copied'


def test_the_example_of_the_documentation_is_complete(tmp_path):
  text = (ROOT / 'docs' / 'tasks.md').read_text('utf-8')
  (block,) = (x for x in text.split('```') if 'TASK_FILES = ' in x)
  path = tmp_path / 'headlines.gin'
  path.write_text(block, encoding='utf-8')
  gin_setup.parse([str(path)], ['MODEL_DIR = "unused"'])
  gin_setup.configured(loop.train)
  assert gin_setup.macro('MIXTURE_OR_TASK_NAME') == 'headlines'


@pytest.mark.parametrize(
  ('name', 'task'),
  [
    ('cnn_dailymail', 'cnn_dailymail_v002'),
    ('wmt15_enfr', 'wmt15_enfr_v003'),
    ('squad', 'squad_v010_allanswers'),
  ],
)
def test_calms_files_name_calms_tasks(name, task):
  gin_setup.parse(
    [
      'gin/experiments/tiny.gin',
      f'gin/tasks/{name}.gin',
      'gin/runs/train_seqio.gin',
    ],
    ['VOCABULARY_PATH = "pieces.model"', 'TFDS_DATA_DIR = "here"'],
  )
  found = gin_setup.call(seqio_tasks.SeqioBatches)
  assert found.mixture_or_task_name == task
  assert found.vocab_size == 32128
  added = task_registry.find(task)
  assert (added.vocabulary_path, added.tfds_data_dir) == (
    'pieces.model',
    'here',
  )
