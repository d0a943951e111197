"""setup.sh: what is installed on the workers, and that it happens once."""

import shutil
import subprocess

import pytest

from tests.tpu_scripts import conftest

WHEEL = '--wheel=calm_jax-0.1.0-py3-none-any.whl'


def test_setting_up_again_installs_nothing(ready):
  assert 'installed already' in ready.run('setup', WHEEL)
  assert len(ready.installs()) == 1


def test_a_wheel_is_installed_with_the_tested_versions(ready):
  incoming = f'{ready.folder}/worker_0/calm_tpu/incoming'
  (install,) = ready.installs()
  assert install[-1] == (
    f'calm_jax[tpu] @ file://{incoming}/calm_jax-0.1.0-py3-none-any.whl'
  )
  constraints = install[install.index('--constraints') + 1]
  assert constraints == f'{incoming}/constraints.txt'
  repository = conftest.SCRIPTS.parent
  with open(constraints) as installed:
    assert installed.read() == (repository / 'constraints.txt').read_text()


def test_another_package_is_installed_but_not_under_a_running_job(ready):
  wheel = ready.folder / 'calm_jax-0.2.0-py3-none-any.whl'
  wheel.write_bytes(b'other')
  ready.script('calm', 'wait')
  ready.run('launch', '--', 'train')
  assert 'a job is running' in ready.run('setup', f'--wheel={wheel}', code=4)
  assert len(ready.installs()) == 1
  ready.on_worker('bash calm_tpu/job.sh stop calm 20')
  ready.run('setup', f'--wheel={wheel}')
  assert ready.installs()[1][-1].endswith('/calm_jax-0.2.0-py3-none-any.whl')


def test_a_checkout_is_installed_as_it_is_now(tpu):
  """Changed, new and removed files as on the disk; ignored ones stay here."""
  checkout = tpu.folder / 'my checkout'
  shutil.copytree(conftest.SCRIPTS, checkout / 'tpu_scripts')
  for name in ('constraints.txt', 'changed.py', 'removed.py', 'ignored.py'):
    (checkout / name).write_text('before')
  (checkout / '.gitignore').write_text('ignored.py\n')
  for command in ('init --quiet', 'add .'):
    subprocess.run(['git', *command.split()], cwd=checkout, check=True)
  (checkout / 'changed.py').write_text('after')
  (checkout / 'new file.py').write_text('after')
  (checkout / 'removed.py').unlink()
  for _ in range(2):
    tpu.run('setup', scripts=checkout / 'tpu_scripts')
  home = tpu.folder / 'worker_0' / 'calm_tpu'
  copied = {
    str(path.relative_to(home / 'checkout')): path.read_text()
    for path in (home / 'checkout').iterdir()
    if path.is_file()
  }
  assert copied == {
    '.gitignore': 'ignored.py\n',
    'changed.py': 'after',
    'constraints.txt': 'before',
    'new file.py': 'after',
  }
  # The second time the bytes were the same.
  (install,) = tpu.installs()
  assert install[-1] == f'calm_jax[tpu] @ file://{home}/checkout'


def test_a_git_reference_is_installed_each_time_for_it_may_move(tpu):
  for _ in range(2):
    tpu.run('setup', '--repo=https://example.com/a.git', '--ref=my;branch')
  package = 'calm_jax[tpu] @ git+https://example.com/a.git@my;branch'
  assert [x[-1] for x in tpu.installs()] == [package] * 2


def test_a_failed_set_up_is_not_taken_for_a_finished_one(tpu):
  (tpu.folder / 'no_tpu').write_text('1')
  assert 'JAX sees no TPU' in tpu.run('setup', WHEEL, code=4)
  (tpu.folder / 'no_tpu').unlink()
  tpu.run('setup', WHEEL)
  assert len(tpu.installs()) == 2


@pytest.mark.parametrize('failing', ['ssh', 'scp'])
def test_a_connection_that_fails_once_is_tried_again(tpu, failing):
  tpu.script(failing, '255' if failing == 'ssh' else '1')
  tpu.run('setup', WHEEL)
  assert len(tpu.installs()) == 1
