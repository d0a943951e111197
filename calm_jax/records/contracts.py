"""What crosses stages: the dump and the results. NumPy only, validated.

    runner --Manifest, Dump--> calibration --CalibrationResult--> evaluation
    evaluation --EvaluationResult--> report

Every record is frozen and checks itself when it is made, so that a stage may
trust what it receives. Sizes: N examples, G thresholds, T output positions
(`max_decode_length`), L decoder layers. A threshold of 1 is the full model, by
rule. CALM writes delta for `tolerance` and epsilon for `failure_prob`;
Learn-then-Test writes alpha and delta for the same two.
"""

from calm_jax.records.calibration_result import (
  HIGH_PROBABILITY,
  IN_EXPECTATION,
  CalibrationResult,
  GridPoint,
)
from calm_jax.records.descriptions import Description
from calm_jax.records.dump_arrays import Dump
from calm_jax.records.efficiency_records import Flops, Milliseconds, Speed
from calm_jax.records.evaluation_records import (
  CurvePoint,
  EvaluationResult,
  ExampleLoss,
  Outputs,
  Sample,
  SystemRow,
)
from calm_jax.records.json_records import (
  read_json,
  write_bytes_atomically,
  write_json_atomically,
)
from calm_jax.records.manifest import (
  GENERATED,
  REPLAYED,
  Manifest,
  Provenance,
  ShardInfo,
)
from calm_jax.records.model_description import ModelDescription
from calm_jax.records.record_checks import CONSISTENCIES

__all__ = [
  'CONSISTENCIES',
  'CalibrationResult',
  'CurvePoint',
  'Description',
  'Dump',
  'EvaluationResult',
  'ExampleLoss',
  'Flops',
  'GENERATED',
  'GridPoint',
  'HIGH_PROBABILITY',
  'IN_EXPECTATION',
  'Manifest',
  'Milliseconds',
  'ModelDescription',
  'Outputs',
  'Provenance',
  'REPLAYED',
  'Sample',
  'ShardInfo',
  'Speed',
  'SystemRow',
  'read_json',
  'write_bytes_atomically',
  'write_json_atomically',
]
