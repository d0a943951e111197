"""create.sh and delete.sh against every state of a request."""

import signal

import pytest

TYPE = '--accelerator_type=v5litepod-8'


def test_a_tpu_is_requested_once_and_waited_for(cloud):
  cloud.script(
    'describe', '', 'WAITING_FOR_RESOURCES', 'EMPTY', 'PROVISIONING', 'ACTIVE'
  )
  output = cloud.run('create', TYPE)
  assert cloud.verbs() == ['describe', 'create', *['describe'] * 4]
  assert 'calm-1: WAITING_FOR_RESOURCES' in output
  assert cloud.exists


@pytest.mark.parametrize('state', ['ACTIVE', 'WAITING_FOR_RESOURCES', 'EMPTY'])
def test_what_is_there_is_not_requested_again(tpu, state):
  tpu.script('describe', state)
  assert 'nothing requested' in tpu.run('create', TYPE)
  assert tpu.count('create') == 0


@pytest.mark.parametrize('state', ['SUSPENDED', 'FAILED'])
def test_a_dead_request_is_replaced(tpu, state):
  tpu.script('describe', state)
  tpu.run('create', TYPE)
  assert tpu.verbs() == ['describe', 'delete', 'create', 'describe']


def test_a_request_that_is_going_is_awaited_before_the_next(tpu):
  tpu.script('describe', 'DELETING', 'DELETING', 'GONE')
  tpu.run('create', TYPE)
  assert tpu.verbs() == [*['describe'] * 3, 'create', 'describe']


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDED', 'GONE'])
def test_a_request_that_comes_to_nothing_ends_with_4(cloud, state):
  cloud.script('describe', '', 'WAITING_FOR_RESOURCES', state)
  assert 'no TPU. The reason: gcloud' in cloud.run('create', TYPE, code=4)


def test_a_refused_request_says_why_and_is_not_repeated(cloud):
  cloud.script('create', 'QUOTA')
  output = cloud.run('create', TYPE, code=4)
  assert 'Quota limit has been exceeded' in output
  assert cloud.verbs() == ['describe', 'create', 'describe']


def test_a_request_whose_answer_is_lost_is_not_repeated(cloud):
  cloud.script('create', 'LOST')
  cloud.run('create', TYPE)
  assert cloud.count('create') == 1


def test_a_lost_network_is_not_a_missing_tpu(tpu):
  tpu.script('describe', 'NO_NETWORK', 'NO_NETWORK', 'ACTIVE')
  tpu.run('create', TYPE)
  assert tpu.count('create') == 0
  tpu.script('describe', *['NO_NETWORK'] * 9)
  assert 'current auth tokens' in tpu.run('create', TYPE, code=4)
  assert tpu.count('create') == 0


@pytest.mark.parametrize(
  ('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_interrupted_waiting_gives_the_request_back(cloud, number, code):
  cloud.script('describe', '', 'WAITING_FOR_RESOURCES')
  process = cloud.start('create', TYPE, '--poll_seconds=100')
  cloud.wait_for(lambda: cloud.count('describe') == 2)
  process.send_signal(number)
  process.communicate(timeout=30)
  assert process.returncode == code
  assert cloud.verbs()[-1] == 'delete'
  assert not cloud.exists


def test_interrupted_waiting_keeps_what_another_run_requested(tpu):
  tpu.script('describe', 'WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES')
  process = tpu.start('create', TYPE, '--poll_seconds=100')
  tpu.wait_for(lambda: tpu.count('describe') == 2)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=30)
  assert process.returncode == 130
  assert tpu.exists


def test_without_waiting_one_request_is_made(cloud):
  cloud.run('create', TYPE, '--wait=false')
  assert cloud.verbs() == ['describe', 'create']


@pytest.mark.parametrize(
  ('kind', 'version'),
  [
    ('v6e-8', 'v2-alpha-tpuv6e'),
    ('v5p-8', 'v2-alpha-tpuv5'),
    ('v5litepod-1', 'v2-alpha-tpuv5-lite'),
    ('v4-8', 'tpu-ubuntu2204-base'),
    ('v3-8', 'tpu-ubuntu2204-base'),
  ],
)
def test_the_software_fits_the_accelerator(cloud, kind, version):
  text = cloud.run('create', f'--accelerator_type={kind}', '--dry_run')
  assert f'--runtime-version={version} ' in text


def test_deleting_twice_is_fine(tpu):
  tpu.run('delete')
  assert not tpu.exists
  assert 'nothing to delete' in tpu.run('delete')
  assert tpu.count('delete') == 1


def test_deleting_does_not_give_up_at_once(tpu):
  tpu.script('delete', 'NO_NETWORK', 'NO_NETWORK')
  tpu.run('delete')
  assert tpu.count('delete') == 3


def test_what_cannot_be_deleted_is_said_loudly(tpu):
  tpu.script('delete', *['NO_NETWORK'] * 9)
  output = tpu.run('delete', code=4)
  assert 'COULD NOT BE DELETED AND MAY COST MONEY' in output
