"""calm_jax: confident adaptive language modeling in JAX.

`__all__` is what users import. Each name is imported when it is first used, so
that `import calm_jax` alone brings in neither JAX nor TensorFlow: calibration
and reports stay light. `__init__.pyi` says the same to type checkers.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

# Name -> the module that has it.
_HOMES = {
  'CalibrationResult': 'records.calibration_result',
  'CalmError': 'errors',
  'ConfigError': 'errors',
  'DataError': 'errors',
  'Generation': 'decode.generation',
  'Generations': 'display.generations',
  'NumericError': 'errors',
  'ResourceError': 'errors',
  'TextGenerator': 'decode.generation',
  'calibrate': 'calibration',
  'calibrate_dump': 'calibration',
  'load': 'decode.generation',
  'read_dump': 'dump.reader',
}
__all__ = ['__version__', *_HOMES]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_HOMES[name]}')
  globals()[name] = getattr(module, name)
  return globals()[name]


def __dir__() -> list[str]:
  return sorted(__all__)
