"""Flags: nothing is hard-coded, and each mistake gets one clear sentence."""

import pytest

CREATE = ('create', '--accelerator_type=v5litepod-8')


def refused(cloud, *arguments, code=2, **environment):
  """The one line that a refused script prints, before it asks the cloud."""
  output = cloud.run(*arguments, code=code, **environment)
  assert cloud.calls == []
  (line,) = output.splitlines()
  return line


@pytest.mark.parametrize(
  'script', ['create', 'setup', 'launch', 'watch', 'fetch', 'delete']
)
@pytest.mark.parametrize('flag', ['project', 'zone', 'name'])
def test_project_zone_and_name_have_no_default(cloud, script, flag):
  del cloud.environment[f'CALM_TPU_{flag.upper()}']
  line = (
    refused(cloud, script, '--output_dir=a')
    if script == 'fetch'
    else (refused(cloud, script))
  )
  assert line.startswith(f'{script}.sh: error: --{flag} is required')
  assert line.endswith(f'or set CALM_TPU_{flag.upper()}.')


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['create'], '--accelerator_type is required'),
    ([*CREATE, '--zone=us-west4'], '--zone must be a zone'),
    ([*CREATE, '--name=a b'], '--name must be lower-case letters'),
    ([*CREATE, '--name=x;rm -rf'], '--name must be lower-case letters'),
    ([*CREATE, '--poll_seconds=soon'], '--poll_seconds must be a whole'),
    ([*CREATE, '--spot=maybe'], '--spot is a switch'),
    ([*CREATE, '--zone'], '--zone needs a value: --zone=ZONE'),
    ([*CREATE, '--max_hours=1'], 'unknown flag --max_hours. Flags: --project'),
    ([*CREATE, 'v6e-8'], "flags are written --name=value, got 'v6e-8'"),
    (['create', '--accelerator_type=tpu7x-8'], 'a generation and a size'),
    (['create', '--accelerator_type=v9-8'], 'Give --runtime_version'),
    (['setup', '--ref=main'], '--repo is required'),
    (['setup', '--ref=main', '--wheel=a.whl'], 'exclude each other'),
    (['setup', '--wheel=missing.whl'], '--wheel must be a wheel file'),
    (['launch'], 'no calm command. Give it after --'),
    (['launch', '--env=1A=b', '--', 'train'], '--env needs NAME=VALUE'),
    (['launch', '--bucket=s3://a', '--', 'train'], 'a gs:// address'),
    (['launch', '--sync_dir=../a', '--', 'train'], 'the name of one folder'),
    (['launch', '--job=a b', '--', 'train'], '--job must be letters'),
    (['fetch'], '--output_dir is required'),
    (['watch', *CREATE[1:], '--', 'train'], '--max_hours is required'),
    (['watch', *CREATE[1:], '--max_hours=-1', '--', 'train'], 'of hours'),
  ],
)
def test_each_mistake_gets_one_sentence(cloud, arguments, sentence):
  assert sentence in refused(cloud, *arguments)


def test_a_missing_gcloud_is_said(cloud):
  line = refused(cloud, *CREATE, code=4, PATH=_without_gcloud(cloud))
  assert 'gcloud is not on the PATH' in line


def _without_gcloud(cloud):
  folder = cloud.folder / 'few_commands'
  folder.mkdir()
  for name in ('bash', 'env', 'dirname'):
    (folder / name).symlink_to(f'/usr/bin/{name}')
  return str(folder)


def test_a_flag_outranks_its_environment_variable(cloud):
  text = cloud.run('delete', '--dry_run', '--zone=europe-west4-b')
  assert '--zone=europe-west4-b' in text
  assert '--zone=us-west4-a' not in text


def test_help_lists_each_flag_with_its_variable(cloud):
  text = cloud.run('watch', '--help')
  assert '--max_hours=HOURS\n' in text
  assert '[CALM_TPU_PROJECT, now my-project]' in text
