"""Devices, backend and memory."""

import os
import pathlib
from collections.abc import Iterator

from calm_jax.doctor import findings

_GIB = 2**30
# The shipped model and JAX's compiler fit; TensorFlow besides them, just so.
_LEAST_GIB = 2.0

# A device file, what it is, and the extra of setup.py that drives it.
_ACCELERATORS = (
  ('/dev/nvidia0', 'an NVIDIA GPU', 'cuda13'),
  ('/dev/accel0', 'a TPU', 'tpu'),
)


def look() -> Iterator[findings.Finding]:
  """JAX's backend and devices, then the memory of the machine."""
  yield from findings.guarded(
    'backend', _devices, 'Mend what the versions above say; then run again.'
  )
  yield _memory()


def _devices() -> Iterator[findings.Finding]:
  import jax

  backend = jax.default_backend()
  devices = jax.devices()
  kinds = sorted({device.device_kind for device in devices})
  chosen = os.environ.get('JAX_PLATFORMS')
  found = f'{backend}, {len(devices)} x {", ".join(kinds)}'
  if chosen:
    found += f' (JAX_PLATFORMS={chosen})'
  unused = '' if backend != 'cpu' or chosen else _unused_accelerator()
  yield findings.Finding(
    'backend', findings.NOTE if unused else findings.OK, found, unused
  )
  limits = [(x.memory_stats() or {}).get('bytes_limit', 0) for x in devices]
  if all(limits):
    gib = ', '.join(f'{limit / _GIB:.1f} GiB' for limit in limits)
    yield findings.Finding('device memory', findings.OK, gib)


def _unused_accelerator() -> str:
  for path, what, extra in _ACCELERATORS:
    if pathlib.Path(path).exists():
      return (
        f'This machine has {what} that JAX does not use: pip install'
        f" 'calm_jax[{extra}]'"
      )
  return ''


def _memory() -> findings.Finding:
  import psutil

  memory = psutil.virtual_memory()
  total, free = memory.total / _GIB, memory.available / _GIB
  is_enough = free >= _LEAST_GIB
  return findings.Finding(
    'memory',
    findings.OK if is_enough else findings.NOTE,
    f'{free:.1f} of {total:.1f} GiB available, {os.cpu_count()} cores',
    ''
    if is_enough
    else f'End other programs: {_LEAST_GIB:g} GiB are needed for small models.',
  )
