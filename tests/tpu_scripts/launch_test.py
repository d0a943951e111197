"""setup.sh, launch.sh and what they leave on the workers."""

import pytest

HOSTILE = [
  'train',
  '--gin.MODEL_DIR=\'"runs/my model"\'',
  '$(touch injected)',
  '`touch injected`',
  '; touch injected',
  '&& touch injected #',
  'it\'s "quoted" \\ twice',
  'a\nb\tc',
  '*',
  '~',
  '',
  '--',
  'é日本',
]


@pytest.mark.parametrize('num_workers', [1, 2])
def test_calm_gets_every_argument_as_it_was_written(tpu, num_workers):
  tpu.environment['NUM_WORKERS'] = str(num_workers)
  tpu.run('setup', '--wheel=calm_jax-0.1.0-py3-none-any.whl')
  tpu.run('launch', '--', *HOSTILE)
  for worker in range(num_workers):
    tpu.wait_for_job('exited 0', worker=worker)
    assert tpu.argv(worker) == HOSTILE
  assert not list(tpu.folder.rglob('injected'))


def test_environment_variables_arrive(ready):
  value = "gs://a/b c;'d'"
  ready.run('launch', f'--env=VARIABLE={value}', '--', 'train')
  ready.wait_for_job('exited 0')
  log = ready.on_worker('bash calm_tpu/job.sh log calm 5').stdout
  assert f'variable: {value}\n' in log


def test_a_running_command_is_not_started_twice(ready):
  ready.script('calm', 'wait')
  ready.run('launch', '--', 'train', 'a b')
  assert 'running already' in ready.run('launch', '--', 'train', 'a b')
  ready.wait_for(lambda: ready.argv() == ['train', 'a b'])


def test_another_command_does_not_displace_a_running_one(ready):
  ready.script('calm', 'wait')
  ready.run('launch', '--', 'train')
  for flags in (['--', 'dump'], ['--job=other', '--', 'train']):
    assert 'job calm is running' in ready.run('launch', *flags, code=2)
  ready.wait_for(lambda: ready.argv() == ['train'])


def test_a_finished_command_is_left_and_a_failed_one_begun_again(ready):
  ready.script('calm', '5')
  ready.run('launch', '--', 'train')
  ready.wait_for_job('exited 5')
  ready.run('launch', '--', 'train')
  ready.wait_for_job('exited 0')
  assert 'ended well already' in ready.run('launch', '--', 'train')
  ready.run('launch', '--', 'dump')
  ready.wait_for_job('exited 0')
  assert ready.argv() == ['train', 'train', 'dump']


def test_stopping_lets_calm_save(ready):
  ready.script('calm', 'wait')
  ready.run('launch', '--', 'train')
  ready.wait_for(lambda: (ready.folder / 'argv.worker_0').exists())
  ready.on_worker('bash calm_tpu/job.sh stop calm 20')
  ready.wait_for_job('exited 143')
  result = ready.folder / 'worker_0' / 'calm_tpu' / 'work' / 'runs'
  assert (result / 'result.txt').read_text() == 'worker 0\nsaved\n'


def test_what_does_not_stop_is_killed_and_can_start_again(ready):
  ready.script('calm', 'wait')
  ready.run('launch', '--', 'train')
  ready.wait_for(lambda: (ready.folder / 'argv.worker_0').exists())
  ready.on_worker('bash calm_tpu/job.sh stop calm 0')
  ready.wait_for_job('exited 137')
  ready.run('launch', '--', 'train')
  ready.wait_for_job('exited 0')


def test_launching_before_setting_up_fails(tpu):
  tpu.run('launch', '--', 'train', code=127)


def test_a_connection_that_fails_once_is_tried_again(ready):
  ready.script('ssh', '255')
  ready.run('launch', '--', 'train')
  ready.wait_for_job('exited 0')
  assert ready.argv() == ['train']


def test_a_connection_that_always_fails_ends_with_its_code(ready):
  before = ready.count('ssh')
  ready.script('ssh', *['255'] * 9)
  ready.run('launch', '--', 'train', code=255)
  assert ready.count('ssh') - before == 1 + 2  # --retries=2


def test_an_answer_of_the_worker_is_no_failed_connection(ready):
  before = ready.count('ssh')
  ready.script('ssh', '4')
  ready.run('launch', '--', 'train', code=4)
  assert ready.count('ssh') - before == 1
