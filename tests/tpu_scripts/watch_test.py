"""watch.sh: preemption, restarts, the cost guard, and that the TPU goes."""

import signal

import pytest

WATCH = (
  'watch',
  '--accelerator_type=v5litepod-8',
  '--spot',
  '--wheel=calm_jax-0.1.0-py3-none-any.whl',
)
BUCKET = '--bucket=gs://my-bucket/run'
COMMAND = ('--', 'train', '--gin.MODEL_DIR=\'"runs/a b"\'')


def watch(cloud, *flags, code=0, **environment):
  return cloud.run(
    *WATCH, '--max_hours=1', *flags, *COMMAND, code=code, **environment
  )


def test_one_command_does_it_all(cloud):
  output = watch(cloud, BUCKET, '--output_dir=my results')
  assert cloud.count('create') == cloud.count('delete') == 1
  assert cloud.argv() == list(COMMAND[1:])
  assert cloud.verbs()[-1] == 'delete'
  assert not cloud.exists
  results = cloud.folder / 'my results' / 'runs'
  assert (results / 'result.txt').read_text() == 'worker 0\n'
  log = (results / 'logs' / 'calm.log').read_text()
  assert 'calm ended with exit code 0' in log
  assert 'finished' in output


def test_a_preempted_tpu_is_replaced_and_the_command_goes_on(cloud):
  """The second TPU finds in the bucket what the first one had saved."""
  cloud.script('calm', 'wait', '0')
  process = cloud.start(
    *WATCH, '--max_hours=1', BUCKET, '--sync_seconds=0', *COMMAND
  )
  cloud.wait_for(lambda: cloud.bucket_file('LATEST').exists())
  cloud.script('describe', 'SUSPENDING', 'SUSPENDED')
  output = process.communicate(timeout=60)[1]
  assert process.returncode == 0, output
  assert cloud.count('create') == cloud.count('delete') == 2
  assert 'calm-1 is SUSPENDED; restart 1 of 10' in output
  latest = cloud.bucket_file('LATEST').read_text()
  result = cloud.bucket_file(f'{latest}/result.txt').read_text()
  assert result == 'worker 0\n' * 2


def test_restarts_are_bounded(cloud):
  cloud.script('create', *['QUOTA'] * 9)
  output = watch(cloud, BUCKET, '--max_restarts=2', code=4)
  assert '--max_restarts=2 are used up' in output
  assert cloud.count('create') == 3


def test_a_job_that_crashes_is_run_again_on_the_same_tpu(cloud):
  cloud.script('calm', '139', '143', '0')
  watch(cloud, BUCKET)
  assert cloud.count('create') == cloud.count('delete') == 1
  assert cloud.argv() == list(COMMAND[1:]) * 3


@pytest.mark.parametrize('code', [2, 3, 5])
def test_what_would_fail_again_is_not_repeated(cloud, code):
  cloud.script('calm', code)
  output = watch(cloud, BUCKET, code=code)
  assert f'calm ended with exit code {code}' in output
  assert f'== exit code {code}' not in output
  assert cloud.argv() == list(COMMAND[1:])
  assert not cloud.exists


def fast_clock(cloud):
  """Each look at the clock finds it half an hour later."""
  date = cloud.folder / 'bin' / 'date'
  date.write_text("""#!/bin/bash
[[ $1 == +%s ]] || exec /bin/date "$@"
now=$(($(cat "$CLOUD/clock" 2>/dev/null) + 1800))
echo $now | tee "$CLOUD/clock"
""")
  date.chmod(0o755)


def test_the_cost_guard_saves_copies_and_deletes(cloud):
  cloud.script('calm', 'wait')
  fast_clock(cloud)
  output = watch(
    cloud, BUCKET, '--max_hours=5.5', '--output_dir=results', code=4
  )
  assert '--max_hours=5.5 are used up' in output
  assert cloud.verbs()[-1] == 'delete'
  assert not cloud.exists
  result = cloud.folder / 'results' / 'runs' / 'result.txt'
  assert result.read_text() == 'worker 0\nsaved\n'


def test_the_cost_guard_deletes_although_nothing_can_be_reached(tpu):
  fast_clock(tpu)
  tpu.script('ssh', *['255'] * 99)
  output = watch(tpu, '--output_dir=results', code=4)
  assert '--max_hours=1 are used up' in output
  assert not tpu.exists


def test_hours_count_on_when_watching_is_begun_again(cloud):
  cloud.script('calm', 'wait')
  fast_clock(cloud)
  for max_hours in (4, 4.5):
    output = watch(cloud, BUCKET, f'--max_hours={max_hours}', '--keep', code=4)
    assert cloud.exists
  assert cloud.count('create') == 1
  # The second began where the first had ended: it looked but once.
  assert cloud.verbs()[-2:] != ['describe', 'describe']
  assert 'hours of a TPU: ' in output
  hours = float(output.split('hours of a TPU: ')[1].split()[0])
  assert hours > 4.5


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_an_interrupted_watch_saves_and_deletes(cloud, number, code):
  cloud.script('calm', 'wait')
  flags = (*WATCH, '--max_hours=1', BUCKET, '--poll_seconds=100', *COMMAND)
  process = cloud.start(*flags)
  cloud.wait_for(lambda: cloud.count('describe') == 1)
  process.send_signal(number)
  output = process.communicate(timeout=60)[1]
  assert process.returncode == code, output
  assert not cloud.exists


def test_a_kept_tpu_stays(cloud):
  output = watch(cloud, '--keep')
  assert 'calm-1 is kept, and costs until you run delete.sh' in output
  assert cloud.exists


def test_a_watch_can_be_begun_again_at_a_running_job(ready):
  ready.script('calm', 'wait')
  ready.run('launch', BUCKET, *COMMAND)
  ready.wait_for(lambda: ready.argv() == list(COMMAND[1:]))
  ready.script('describe', '', 'ACTIVE', 'NO_NETWORK', 'NO_NETWORK')
  process = ready.start(*WATCH, '--max_hours=1', BUCKET, *COMMAND)
  ready.wait_for(lambda: ready.count('describe') >= 5)
  ready.on_worker('kill -TERM $(cat calm_tpu/jobs/calm/calm_pid)')
  output = process.communicate(timeout=60)[1]
  assert process.returncode == 0, output
  assert ready.count('create') == 0
  assert ready.argv() == list(COMMAND[1:]) * 2
  assert len(ready.installs()) == 1


def test_the_job_of_somebody_else_is_neither_displaced_nor_deleted(ready):
  ready.script('calm', 'wait')
  ready.run('launch', '--job=other', '--', 'train')
  assert 'job other is running' in watch(ready, BUCKET, code=2)
  assert ready.exists


def test_workers_that_stay_silent_are_replaced(tpu):
  tpu.script('ssh', *['255'] * 9)
  output = watch(tpu, BUCKET)
  assert 'the workers cannot be reached; restart 1 of 10' in output
  assert tpu.count('create') == 1


def test_one_failed_worker_stops_the_others(cloud):
  cloud.environment['NUM_WORKERS'] = '2'
  cloud.script('calm', 'wait', '139', '0', '0')
  watch(cloud, BUCKET)
  assert sorted(cloud.argv(0) + cloud.argv(1)) == sorted([*COMMAND[1:]] * 4)


def test_results_that_cannot_be_copied_are_waited_for(cloud):
  """They are nowhere else."""
  cloud.script('scp', '', '4', '4', '4')
  watch(cloud, '--output_dir=results')
  result = cloud.folder / 'results' / 'runs' / 'result.txt'
  assert result.read_text() == 'worker 0\n'
  assert not cloud.exists


def test_a_tpu_that_cannot_be_deleted_changes_the_exit_code(cloud):
  cloud.script('delete', *['NO_NETWORK'] * 9)
  assert 'MAY COST MONEY' in watch(cloud, BUCKET, code=4)


def test_results_without_a_place_are_refused_before_anything_is_made(cloud):
  assert 'Give --bucket or --output_dir' in watch(cloud, code=2)
  assert cloud.calls == []
