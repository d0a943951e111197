"""`calm doctor`: what is installed, what is wrong, and how to fix it."""

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from calm_jax import errors
from calm_jax.cli import flags, settings

if TYPE_CHECKING:
  from calm_jax.doctor import findings

DESCRIPTION = """Look at versions, devices, folders, the shipped model and data.

  calm doctor
  calm doctor --model_dir=runs/docstrings --tfds_data_dir=data
  calm doctor --json

Each line is ok, a note (only some need it) or wrong, with what to do. Exit code
4 if something is wrong. It takes about half a minute: a sentence is decoded and
TensorFlow is imported."""

SETTINGS = (
  settings.Setting('model_dir', None, 'folder of a run, to be tried out'),
  settings.Setting(
    'tfds_data_dir',
    None,
    "where TFDS keeps data; without it $TFDS_DATA_DIR, or TFDS' own folder",
  ),
)

_WIDTH = 22  # of the topics


def add_flags(parser: flags.Parser) -> None:
  """Adds --json."""
  parser.add_argument(
    '--json', action='store_true', help='print one JSON object, for machines'
  )


def run(args) -> int:
  """Prints what was found; returns 4 if something is wrong, else 0.

  Raises:
    ConfigError: gin's files or bindings are wrong.
  """
  from calm_jax.doctor import findings

  chosen = settings.settle(args, SETTINGS)
  found = []
  for finding in look(chosen.model_dir, chosen.tfds_data_dir):
    found.append(finding)
    if not args.json:
      # Some looks take seconds.
      print(finding.text(_WIDTH), flush=True)
  wrong = findings.wrong(found)
  if args.json:
    fields = {'ok': not wrong, 'findings': [x.to_json() for x in found]}
    print(json.dumps(fields, indent=2))
  elif wrong:
    print(f'{len(wrong)} to be mended: {", ".join(wrong)}.')
  else:
    print('Nothing is wrong.')
  return errors.ResourceError.exit_code if wrong else 0


def look(
  model_dir: str | None, tfds_data_dir: str | None
) -> 'Iterator[findings.Finding]':
  """All findings, the quick ones first."""
  from calm_jax.cli import native_logs
  from calm_jax.doctor import findings, looks, versions

  again = 'Mend what is wrong above; then run again.'
  yield from findings.guarded(
    'versions', versions.look, "pip install 'calm_jax'"
  )
  for topic, folder in (
    ('MODEL_DIR', model_dir),
    ('compilation cache', os.environ.get('JAX_COMPILATION_CACHE_DIR')),
  ):
    if folder:
      yield from looks.at_folder(topic, folder)
  yield from findings.guarded('backend', looks.at_devices, again)
  yield from findings.guarded('shipped model', looks.at_model, again)

  def at_data_sets():
    native_logs.import_tensorflow()
    return looks.at_data_sets(tfds_data_dir)

  yield from findings.guarded('tensorflow', at_data_sets, again)
