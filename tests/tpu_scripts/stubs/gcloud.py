"""A Google Cloud of one TPU, in the folder $CLOUD.

Every call is logged. Answers come from scripts, one line per call, and where a
script has ended, all is well. TPU workers are folders, `ssh` is bash in them,
and gs:// is a folder too.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ['CLOUD'])
TPU = CLOUD / 'tpu_exists'


def main(argv):
  with open(CLOUD / 'calls.jsonl', 'a') as log:
    log.write(json.dumps(argv) + '\n')
  if argv[:3] == ['compute', 'tpus', 'queued-resources']:
    return {'create': create, 'describe': describe, 'delete': delete}[argv[3]]()
  if argv[:3] == ['compute', 'tpus', 'tpu-vm']:
    return {'ssh': ssh, 'scp': scp}[argv[3]](argv[4:])
  if argv[0] == 'storage':
    return {'cat': cat, 'cp': upload, 'rsync': rsync}[argv[1]](argv[2:])
  return fail(f'unknown command {argv}')


def fail(text, code=1):
  print(f'ERROR: (gcloud) {text}', file=sys.stderr)
  return code


def next_answer(script):
  """Takes the first line of a script, or '' where there is none."""
  path = CLOUD / f'{script}.script'
  lines = path.read_text().splitlines() if path.exists() else []
  path.write_text('\n'.join(lines[1:]))
  return lines[0] if lines else ''


def create():
  answer = next_answer('create')
  if TPU.exists():
    return fail('ALREADY_EXISTS: Resource already exists')
  if answer == 'QUOTA':
    return fail('RESOURCE_EXHAUSTED: Quota limit has been exceeded')
  TPU.touch()
  return fail('connection reset') if answer == 'LOST' else 0


def describe():
  answer = next_answer('describe')
  if answer == 'NO_NETWORK':
    return fail('There was a problem refreshing your current auth tokens')
  if answer == 'GONE':
    remove_tpu()
  if not TPU.exists():
    return fail('NOT_FOUND: Resource was not found')
  if answer in ('SUSPENDED', 'SUSPENDING', 'FAILED'):
    remove_workers()
  print({'': 'ACTIVE', 'EMPTY': ''}.get(answer, answer))
  return 0


def delete():
  if next_answer('delete') == 'NO_NETWORK':
    return fail('connection reset')
  if not TPU.exists():
    return fail('NOT_FOUND: Resource was not found')
  remove_tpu()
  return 0


def remove_tpu():
  TPU.unlink(missing_ok=True)
  remove_workers()


def workers():
  count = int(os.environ.get('NUM_WORKERS', '1'))
  return [CLOUD / f'worker_{i}' for i in range(count)]


def remove_workers():
  for home in workers():
    for pid in home.glob('calm_tpu/jobs/*/pid'):
      try:
        os.killpg(int(pid.read_text()), signal.SIGKILL)
      except (ProcessLookupError, ValueError):
        pass
    shutil.rmtree(home, ignore_errors=True)


def flag_of(argv, name):
  (value,) = [x.partition('=')[2] for x in argv if x.startswith(f'--{name}=')]
  return value


def selected(argv):
  worker = flag_of(argv, 'worker')
  return workers() if worker == 'all' else [workers()[int(worker)]]


def ssh(argv):
  answer = next_answer('ssh')
  if answer:
    return fail('[/usr/bin/ssh] exited with return code [255].', int(answer))
  codes = []
  for home in selected(argv):
    home.mkdir(exist_ok=True)
    environment = {
      **os.environ,
      'HOME': str(home),
      'WORKER': home.name[-1],
      'PATH': f'{CLOUD}/worker_bin:{os.environ["PATH"]}',
    }
    command = ['bash', '-c', flag_of(argv, 'command')]
    codes.append(subprocess.call(command, cwd=home, env=environment))
  return next((code for code in codes if code), 0)


def scp(argv):
  answer = next_answer('scp')
  if answer:
    return fail('[/usr/bin/scp] exited with return code [1].', int(answer))
  *sources, target = [x for x in argv if not x.startswith('--')]
  for home in selected(argv):
    if ':' in target:
      folder = home / target.partition(':')[2]
      for source in sources:
        shutil.copy(source, folder)
    else:
      source = home / sources[0].partition(':')[2]
      if not source.exists():
        return fail(f'scp: {source}: No such file or directory')
      destination = pathlib.Path(target) / source.name
      shutil.copytree(source, destination, dirs_exist_ok=True)
  return 0


def path_of(url):
  return (
    CLOUD / 'gs' / url[5:] if url.startswith('gs://') else pathlib.Path(url)
  )


def cat(argv):
  if next_answer('cat') == 'FORBIDDEN':
    return fail('HTTPError 403: permission denied')
  if not path_of(argv[0]).exists():
    return fail(f'The following URLs matched no objects or files:\n{argv[0]}')
  print(path_of(argv[0]).read_text(), end='')
  return 0


def upload(argv):
  assert argv[0] == '-'
  path_of(argv[1]).write_text(sys.stdin.read())
  return 0


def rsync(argv):
  source, target = map(path_of, [x for x in argv if not x.startswith('--')])
  cut_off = next_answer('rsync') == 'CUT_OFF'
  if '--delete-unmatched-destination-objects' in argv:
    shutil.rmtree(target, ignore_errors=True)
  for path in sorted(x for x in source.rglob('*') if x.is_file()):
    (target / path.relative_to(source)).parent.mkdir(
      parents=True, exist_ok=True
    )
    shutil.copy(path, target / path.relative_to(source))
    if cut_off:
      return fail('connection reset')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
