"""The exact command lines: golden text, a dry run, and what is really called.

golden/*.txt is what --dry_run prints. Elsewhere the stub records what a real
run calls; both must be the same lines.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.tpu_scripts import conftest

GOLDEN = pathlib.Path(__file__).parent / 'golden'
WHEEL = '--wheel=calm_jax-0.1.0-py3-none-any.whl'
CREATE = ('--accelerator_type=v5litepod-8', '--spot')
BUCKET = '--bucket=gs://my-bucket/run'
# Inner quotes for gin, a space, and what would end a shell's command.
COMMAND = ('--', 'train', '--gin.MODEL_DIR=\'"runs/a b"\'', ';', '$HOME')
CASES = {
  'create': (
    'create',
    *CREATE,
    '--valid_until_duration=6h',
    '--service_account=calm@my-project.iam.gserviceaccount.com',
  ),
  'setup_checkout': ('setup',),
  'setup_ref': (
    'setup',
    '--repo=https://example.com/calm_jax.git',
    '--ref=v0.1.0',
  ),
  'launch': ('launch', BUCKET, "--env=VARIABLE=it's here", *COMMAND),
  'fetch_bucket': ('fetch', BUCKET, '--output_dir=my results'),
  'fetch_scp': ('fetch', '--output_dir=my results'),
  'delete': ('delete',),
  'watch': (
    'watch',
    *CREATE,
    WHEEL,
    '--max_hours=2.5',
    BUCKET,
    '--output_dir=my results',
    *COMMAND,
  ),
}


def dry_run(cloud, case):
  script, *flags = CASES[case]
  process = cloud.start(script, '--dry_run', *flags)
  stdout, stderr = process.communicate(timeout=60)
  assert process.returncode == 0, stderr
  return stdout.replace(str(cloud.folder / 'home'), '/home/me').replace(
    str(conftest.SCRIPTS.parent), '/home/me/calm_jax'
  )


@pytest.mark.parametrize('case', CASES)
def test_a_dry_run_prints_the_golden_commands_and_runs_none(cloud, case):
  assert dry_run(cloud, case) == (GOLDEN / f'{case}.txt').read_text()
  assert cloud.calls == []
  assert not (cloud.folder / 'my results').exists()


def gcloud_calls(case):
  lines = (GOLDEN / f'{case}.txt').read_text().splitlines()
  words = [shlex.split(x) for x in lines if x.startswith('gcloud ')]
  return [x[1:] for x in words]


def recorded(cloud):
  return [
    [x.replace(str(conftest.SCRIPTS.parent), '/home/me/calm_jax') for x in call]
    for call in cloud.calls
  ]


def test_creating_launching_copying_deleting_call_what_a_dry_run_prints(cloud):
  expected = []
  for case in ('create', 'launch', 'fetch_scp', 'delete'):
    if case == 'launch':
      # A set-up of the wheel, whose lines are in watch.txt.
      cloud.run('setup', WHEEL)
      expected += recorded(cloud)[len(expected) :]
    script, *flags = CASES[case]
    cloud.run(script, *flags)
    expected += gcloud_calls(case)
    if case == 'launch':
      cloud.wait_for(lambda: cloud.bucket_file('LATEST').exists())
  on_workers = (['storage', 'rsync', 'runs'], ['storage', 'cp', '-'])
  calls = [
    call
    for call in recorded(cloud)
    if call[:3] not in on_workers
    and call != ['storage', 'cat', 'gs://my-bucket/run/LATEST']
  ]
  assert calls == expected


def test_shellcheck_finds_nothing():
  beside = pathlib.Path(sys.executable).parent / 'shellcheck'
  shellcheck = beside if beside.exists() else shutil.which('shellcheck')
  if shellcheck is None:
    pytest.skip("shellcheck is not installed; pip install 'calm_jax[dev]'")
  files = sorted(conftest.SCRIPTS.rglob('*.sh'))
  assert len(files) > 10
  result = subprocess.run([shellcheck, *files], capture_output=True, text=True)
  assert result.returncode == 0, result.stdout


def test_gcloud_itself_knows_every_flag(tmp_path):
  """Its linter needs no network and no project."""
  gcloud = shutil.which('gcloud')
  if gcloud is None:
    pytest.skip('the Google Cloud CLI is not installed')
  commands = {
    line
    for path in GOLDEN.glob('*.txt')
    for line in path.read_text().splitlines()
    if line.startswith('gcloud ')
  }
  listed = tmp_path / 'commands.json'
  listed.write_text(json.dumps([{'command_string': x} for x in commands]))
  answer = subprocess.run(
    [gcloud, 'meta', 'lint-gcloud-commands', f'--commands-file={listed}'],
    env=os.environ | {'CLOUDSDK_CONFIG': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  if answer.returncode:
    pytest.skip(f'this gcloud has no linter: {answer.stderr[-200:]}')
  results = json.loads(answer.stdout)
  assert len(results) == len(commands)
  assert [x['error_message'] for x in results if not x['success']] == []


def test_no_project_zone_or_bucket_is_hard_coded():
  """The only addresses of the scripts are examples in their messages."""
  for path in conftest.SCRIPTS.rglob('*.sh'):
    for line in path.read_text().splitlines():
      if 'gs://' in line and 'gs://B' not in line:
        assert 'gs://my-bucket' in line or 'require_match' in line, line
