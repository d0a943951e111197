"""What users import, for type checkers; `__init__.py` imports it late."""

from calm_jax.calibration import calibrate as calibrate
from calm_jax.calibration import calibrate_dump as calibrate_dump
from calm_jax.decode.generation import Generation as Generation
from calm_jax.decode.generation import TextGenerator as TextGenerator
from calm_jax.decode.generation import load as load
from calm_jax.display.generations import Generations as Generations
from calm_jax.dump.reader import read_dump as read_dump
from calm_jax.errors import CalmError as CalmError
from calm_jax.errors import ConfigError as ConfigError
from calm_jax.errors import DataError as DataError
from calm_jax.errors import NumericError as NumericError
from calm_jax.errors import ResourceError as ResourceError
from calm_jax.records.calibration_result import (
  CalibrationResult as CalibrationResult,
)

__version__: str
