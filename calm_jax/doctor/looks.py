"""Looks at devices, folders, the shipped model and the data of CALM's tasks."""

import dataclasses
import logging
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from calm_jax import errors
from calm_jax.doctor.findings import NOTE, OK, WRONG, Finding

# A device file, what it is, and the extra of setup.py that drives it.
_ACCELERATORS = (
  ('/dev/nvidia0', 'an NVIDIA GPU', 'cuda13'),
  ('/dev/accel0', 'a TPU', 'tpu'),
)
# The shipped model's output for a text, with all layers.
INPUTS = 'restore: if not provided the value defaults to none'
OUTPUT = 'If not provided, the value defaults to None.'


def at_devices() -> Iterator[Finding]:
  """JAX's backend, its devices and their memory."""
  import jax

  backend, devices = jax.default_backend(), jax.devices()
  kinds = sorted({device.device_kind for device in devices})
  found = f'{backend}, {len(devices)} x {", ".join(kinds)}'
  limits = [(x.memory_stats() or {}).get('bytes_limit', 0) for x in devices]
  if all(limits):
    found += f', {", ".join(f"{limit / 2**30:.1f}" for limit in limits)} GiB'
  unused = ''
  if chosen := os.environ.get('JAX_PLATFORMS'):
    found += f' (JAX_PLATFORMS={chosen})'
  elif backend == 'cpu':
    unused = _unused_accelerator()
  yield Finding('backend', NOTE if unused else OK, found, unused)


def _unused_accelerator() -> str:
  for path, what, extra in _ACCELERATORS:
    if pathlib.Path(path).exists():
      return (
        f'This machine has {what} that JAX does not use: pip install'
        f" 'calm_jax[{extra}]'"
      )
  return ''


def at_folder(topic: str, name: str) -> Iterator[Finding]:
  """Whether a folder can be written, or made where it would be."""
  if '://' in name:
    yield Finding(topic, NOTE, f'{name} is no local folder, and was not tried')
    return
  path = there = pathlib.Path(name).expanduser().absolute()
  while not there.exists():
    there = there.parent
  try:
    with tempfile.TemporaryFile(dir=there) as probe:
      probe.write(b'probe')
  except OSError as error:
    said = f'{there} cannot be written: {error.strerror}'
    fix = 'Choose a folder of your own, or free space.'
    yield Finding(topic, WRONG, said, fix)
    return
  state = 'is writable' if there == path else 'is not there yet, can be made'
  free = shutil.disk_usage(there).free / 2**30
  yield Finding(topic, OK, f'{path} {state}; {free:.1f} GiB free')


def at_model() -> Iterator[Finding]:
  """Decodes one sentence with the shipped model."""
  from calm_jax.decode import generation

  started = time.monotonic()
  (found,) = generation.load().generate([INPUTS])
  seconds = time.monotonic() - started
  if found.text == OUTPUT:
    said = f'loads and decodes {OUTPUT!r} ({seconds:.0f} s with compilation)'
    yield Finding('shipped model', OK, said)
    return
  yield Finding(
    'shipped model',
    WRONG,
    f'decodes {found.text!r} where {OUTPUT!r} is expected',
    'Install calm_jax again; if that does not help, these versions or this'
    ' backend compute something else: JAX_PLATFORMS=cpu calm doctor.',
  )


def at_data_sets(tfds_data_dir: str | None) -> Iterator[Finding]:
  """Whether TFDS has the data of each of CALM's tasks; imports TensorFlow.

  Args:
    tfds_data_dir: where TFDS keeps its data; $TFDS_DATA_DIR, or its default
      folder, if None.
  """
  variable = 'TFDS_DATA_DIR'
  given = tfds_data_dir or os.environ.get(variable, '')
  if given and '://' not in given:
    if not pathlib.Path(given).expanduser().is_dir():
      fix = 'Name the folder that tfds build made, or leave it out.'
      yield Finding(variable, WRONG, f'{given} is no folder', fix)
      return
  from calm_jax.data import calm_tasks

  # TFDS warns where a data set is missing.
  logging.getLogger('absl').setLevel(logging.ERROR)
  for name, task in calm_tasks.TASKS.items():
    try:
      dataclasses.replace(task, tfds_data_dir=tfds_data_dir).check_data()
    except errors.DataError as error:
      # Who trains on other texts does not need them.
      said, _, fix = str(error).partition(' Run: ')
      yield Finding(name, NOTE, said, fix)
    else:
      yield Finding(name, OK, f'{task.tfds_name} is prepared')
