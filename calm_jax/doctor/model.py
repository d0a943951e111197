"""Whether the shipped model reads and writes what it should."""

import time
from collections.abc import Iterator

from calm_jax.doctor import findings

INPUTS = 'restore: if not provided the value defaults to none'
OUTPUT = 'If not provided, the value defaults to None.'


def look() -> Iterator[findings.Finding]:
  """Loads the model and decodes one sentence with all its layers."""
  from calm_jax.decode import generation

  started = time.monotonic()
  (found,) = generation.load().generate([INPUTS])
  seconds = time.monotonic() - started
  if found.text == OUTPUT:
    yield findings.Finding(
      'shipped model',
      findings.OK,
      f'loads and decodes {OUTPUT!r} ({seconds:.0f} s with compilation)',
    )
    return
  yield findings.Finding(
    'shipped model',
    findings.WRONG,
    f'decodes {found.text!r} where {OUTPUT!r} is expected',
    'Install calm_jax again; if that does not help, these versions or this'
    ' backend compute something else: JAX_PLATFORMS=cpu calm doctor.',
  )
