import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).parent
SCRIPTS = HERE.parents[1] / 'tpu_scripts'
TARGET = {
  'CALM_TPU_PROJECT': 'my-project',
  'CALM_TPU_ZONE': 'us-west4-a',
  'CALM_TPU_NAME': 'calm-1',
}
# No test waits for a clock.
AT_ONCE = {
  'CALM_TPU_POLL_SECONDS': '0',
  'CALM_TPU_RETRY_WAIT': '0',
  'CALM_TPU_RETRIES': '2',
}


class Cloud:
  """The stub cloud, and a user's shell in front of it."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    bin_folder = folder / 'bin'
    _write_stub(bin_folder / 'gcloud', HERE / 'stubs' / 'gcloud.py')
    worker_bin = folder / 'worker_bin'
    for name in ('uv', 'stub_python', 'stub_calm'):
      source = HERE / 'stubs' / f'{name.removeprefix("stub_")}.sh'
      _write_stub(worker_bin / name, source)
    hostname = worker_bin / 'hostname'
    hostname.write_text('#!/bin/sh\necho "t1v-n-0123-w-$WORKER"\n')
    hostname.chmod(0o755)
    (folder / 'calm.script').touch()
    (folder / 'home').mkdir()
    (folder / 'calm_jax-0.1.0-py3-none-any.whl').write_bytes(b'wheel')
    inherited = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith('CALM_TPU_') and name != 'XDG_CACHE_HOME'
    }
    self.environment = {
      **inherited,
      **TARGET,
      **AT_ONCE,
      'PATH': f'{bin_folder}:{os.environ["PATH"]}',
      'HOME': str(folder / 'home'),
      'CLOUD': str(folder),
    }

  def script(self, name, *answers):
    """Answers of the next calls: describe, create, delete, ssh, scp, calm..."""
    (self.folder / f'{name}.script').write_text(
      ''.join(f'{answer}\n' for answer in answers)
    )

  def start(self, name, *flags, scripts=SCRIPTS, **environment):
    return subprocess.Popen(
      [scripts / f'{name}.sh', *flags],
      cwd=self.folder,
      env=self.environment | environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      # A shell cannot trap what it was started with ignoring.
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

  def run(self, name, *flags, code=0, **environment):
    """Runs a script, checks its exit code; stdout and stderr in one text."""
    process = self.start(name, *flags, **environment)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stdout + stderr
    return stdout + stderr

  def on_worker(self, command, worker=0):
    flags = ['calm-1', f'--worker={worker}', f'--command={command}']
    return subprocess.run(
      ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', *flags],
      env=self.environment,
      capture_output=True,
      text=True,
    )

  @property
  def calls(self):
    """All gcloud command lines so far, as argument lists."""
    path = self.folder / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def verbs(self):
    """create, describe, delete, ssh, scp, rsync... in their order."""
    return [x[1] if x[0] == 'storage' else x[3] for x in self.calls]

  def count(self, verb):
    return self.verbs().count(verb)

  def argv(self, worker=0):
    """What calm was called with on a worker, all calls in a row."""
    path = self.folder / f'argv.worker_{worker}'
    data = path.read_bytes() if path.exists() else b''
    return data.decode().split('\0')[:-1]

  def installs(self, worker=0):
    path = self.folder / f'uv.worker_{worker}'
    lines = path.read_text().splitlines() if path.exists() else []
    return [x.split('\0')[:-1] for x in lines if x.startswith('pip')]

  @property
  def exists(self):
    return (self.folder / 'tpu_exists').exists()

  def bucket_file(self, name):
    return self.folder / 'gs' / 'my-bucket' / 'run' / name

  def wait_for(self, condition):
    deadline = time.monotonic() + 120  # A busy machine is slow.
    while not condition():
      assert time.monotonic() < deadline
      time.sleep(0.02)

  def wait_for_job(self, state, job='calm', worker=0):
    """Until job.sh answers so: running, or exited CODE."""
    self.wait_for(
      lambda: (
        self.on_worker(f'bash calm_tpu/job.sh status {job}', worker).stdout
        == f'calm_job {job} {state}\n'
      )
    )


def _write_stub(path, source):
  path.parent.mkdir(exist_ok=True)
  interpreter = (
    f'{sys.executable} -S' if source.suffix == '.py' else '/bin/bash'
  )
  path.write_text(f'#!{interpreter}\n{source.read_text()}')
  path.chmod(0o755)


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  yield cloud
  for pid in tmp_path.glob('worker_*/calm_tpu/jobs/*/pid'):
    try:
      os.killpg(int(pid.read_text()), signal.SIGKILL)
    except (ProcessLookupError, ValueError):
      pass


@pytest.fixture
def tpu(cloud):
  """A cloud whose TPU is there already."""
  (cloud.folder / 'tpu_exists').touch()
  return cloud


@pytest.fixture
def ready(tpu):
  """A TPU that is set up."""
  tpu.run('setup', '--wheel=calm_jax-0.1.0-py3-none-any.whl')
  return tpu
