"""A dump's manifest, and what is kept of it in what is made from the dump."""

import dataclasses
from typing import Any

from calm_jax.records import differences, json_records, record_checks
from calm_jax.records.model_description import ModelDescription

GENERATED = 'generated_at_each_threshold'
# Simulated from the trace of the full model: an estimate, no guarantee.
REPLAYED = 'replayed'


@dataclasses.dataclass(frozen=True)
class ShardInfo(json_records.Record):
  """One npz file of a dump."""

  file: str
  num_examples: int
  sha256: str  # of the file's bytes, in hexadecimal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance(json_records.Record):
  """What was decoded, and how: what a calibrated threshold belongs to.

  Attributes:
    model, data_digest, decode_mode: as of the dump's `Manifest`.
  """

  task: str
  split: str
  data_digest: str
  model: ModelDescription
  decode_mode: str = GENERATED

  def differences(self, other: 'Provenance') -> dict[str, tuple[Any, Any]]:
    """Where they differ in more than which texts of the task were decoded."""
    same_texts = dataclasses.replace(
      other, split=self.split, data_digest=self.data_digest
    )
    return differences.differences(self, same_texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest(json_records.Record):
  """Describes a dump; a directory that holds one is complete.

  Without shards it is a header: what a writer is given before any example.

  Attributes:
    thresholds: [G], strictly descending, first 1.0 (the full model).
    model: that decoded the texts.
    data_digest: names the data that the texts were taken from.
    decode_mode: how the outputs came about; only those generated at each
      threshold carry CALM's guarantee.
    stopped: '' or why lower thresholds that were asked for are not there.
  """

  task: str
  split: str
  metric: str
  thresholds: tuple[float, ...]
  model: ModelDescription
  data_digest: str
  num_examples: int = 0
  shards: tuple[ShardInfo, ...] = ()
  decode_mode: str = GENERATED
  stopped: str = ''
  versions: dict[str, str] = dataclasses.field(default_factory=dict)
  command: str = ''
  schema_version: int = json_records.RESULTS_VERSION

  def __post_init__(self):
    grid = self.thresholds
    record_checks.require(
      len(grid) > 0
      and grid[0] == 1.0
      and grid[-1] >= 0.0
      and all(high > low for high, low in zip(grid, grid[1:], strict=False)),
      'thresholds must start with 1.0 (the full model) and descend strictly'
      f' to at least 0, got {grid}',
    )
    total = sum(shard.num_examples for shard in self.shards)
    record_checks.require(
      self.num_examples == total,
      f'num_examples is {self.num_examples}, but the shards hold {total}',
    )
    files = [shard.file for shard in self.shards]
    record_checks.require(
      len(set(files)) == len(files), f'a shard is listed twice: {files}'
    )

  @property
  def provenance(self) -> Provenance:
    """What the dump is of."""
    names = [field.name for field in dataclasses.fields(Provenance)]
    return Provenance(**{name: getattr(self, name) for name in names})
