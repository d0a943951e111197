"""What JAX says where the machine lacks something, as a sentence that helps.

Any error of a stage --> ResourceError, or None: a mistake of ours.
"""

import os
import re
import sys

from calm_jax import errors

_NO_BACKEND = re.compile(
  r"Unable to initialize backend '(?P<name>\w+)': (?P<why>.*)", re.DOTALL
)
_UNKNOWN_BACKEND = re.compile(r"Unknown backend:? '?(?P<name>\w+)'?.*")
# An accelerator belongs to one process at a time.
_BUSY = re.compile(
  r'(already in use|lockfile|device or resource busy).*', re.IGNORECASE
)
_BYTES = re.compile(r'allocat\w+ (?P<bytes>[\d.]+ ?\w*)')
_SMALLER = (
  'Take smaller batches (--batch_size, --gin.BATCH_SIZE), more'
  ' --gin.NUM_MICROBATCHES or --gin.REMAT_POLICY in training, shorter'
  ' TASK_FEATURE_LENGTHS, or a larger device.'
)


def explained(error: BaseException) -> errors.ResourceError | None:
  """The machine's part in an error, None where it has none."""
  text = str(error)
  if isinstance(error, MemoryError):
    return errors.ResourceError(
      f"This machine's memory is not enough ({text or 'MemoryError'})."
      f' {_SMALLER}'
    )
  if 'RESOURCE_EXHAUSTED' in text:
    wanted = _BYTES.search(text)
    more = f': {wanted["bytes"]} more were asked for' if wanted else ''
    return errors.ResourceError(
      f"The device's memory is not enough{more}. {_SMALLER}"
    )
  if isinstance(error, AssertionError):
    # What JAX answers where the platform's plugin is not installed.
    if _has_devices():
      return None
    return _no_device(
      os.environ.get('JAX_PLATFORMS', ''), "JAX's package for it is missing"
    )
  if match := _NO_BACKEND.search(text) or _UNKNOWN_BACKEND.search(text):
    return _no_device(match['name'], match.groupdict().get('why') or text)
  return None


def _has_devices() -> bool:
  if (jax := sys.modules.get('jax')) is None:
    return True  # Nobody has asked for them.
  try:
    return bool(jax.devices())
  except (AssertionError, RuntimeError):
    return False


def _no_device(name: str, why: str) -> errors.ResourceError:
  first_line = why.strip().partition('\n')[0][:200].rstrip('.')
  advice = 'Look at what is there with calm doctor'
  if _BUSY.search(why):
    advice = (
      'Another process holds it: find it (sudo lsof /dev/accel* /dev/vfio/*, or'
      ' nvidia-smi) and end it'
    )
  return errors.ResourceError(
    f'JAX_PLATFORMS asks for {name!r}, which cannot be used: {first_line}.'
    f' {advice}, or run on the CPU: JAX_PLATFORMS=cpu calm ...'
  )
