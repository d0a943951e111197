"""Which systems are timed, and what they are called in the results."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from benchmarks import serve

CALM = 'calm_jax'
# Process -> module, argument, bytes of a weight and of a cached number.
_PEERS = {
  'transformers float32': ('serve_transformers', 'float32', 4, 4),
  'transformers bfloat16': ('serve_transformers', 'bfloat16', 2, 2),
  'CTranslate2 float32': ('serve_ctranslate2', 'float32', 4, 4),
  'CTranslate2 int8': ('serve_ctranslate2', 'int8', 1, 4),
}
PROCESSES = (CALM, *_PEERS)
_LABELS = {
  'none': 'no measure',
  'softmax': 'softmax response',
  'saturation': 'hidden-state saturation',
  'linear': 'linear classifier',
  'attention': 'attention classifier, 64',
  'screened': 'screened top-k, r = 64, C = 256',
  'screened_wide': 'screened top-k, r = 128, C = 64',
}
MIXED = 0  # as `programs.MIXED`, which needs JAX


@dataclasses.dataclass(frozen=True)
class System:
  """One row of the results.

  Attributes:
    process: who runs it.
    measure: key of ours; '' for peers.
    exit: layer where tokens leave, L for the last, MIXED for a pattern.
  """

  process: str
  measure: str
  exit: int

  def name(self, num_layers: int) -> str:
    """In words."""
    if self.process != CALM:
      return self.process
    if self.measure == 'none' and self.exit == num_layers:
      return 'full model'
    where = f'at layer {self.exit}'
    if self.exit == num_layers:
      where = 'never leaves'
    elif self.exit == MIXED:
      where = 'mixed layers'
    return f'{label(self.measure)}: {where}'


def label(measure: str) -> str:
  """'top_k_64' -> 'top-k, K = 64'."""
  if measure.startswith('top_k_'):
    return f'top-k, K = {measure.removeprefix("top_k_")}'
  return _LABELS.get(measure, measure)


def number_bytes(process: str) -> tuple[int, int]:
  """Bytes of a weight, and of a cached number."""
  return _PEERS[process][2:] if process in _PEERS else (4, 4)


def start(process: str, peers_python: str) -> serve.Process:
  """Starts a process; the peers may live in an environment of their own."""
  if process == CALM:
    return serve.Process(sys.executable, 'benchmarks.serve_calm')
  module, argument, *_ = _PEERS[process]
  return serve.Process(peers_python, f'benchmarks.{module}', argument)


def of_process(
  process: str,
  num_layers: int,
  measures: Sequence[str],
  exits: Sequence[int],
  first_layers: Mapping[str, int],
) -> list[System]:
  """All rows of a process; those where a measure is defined."""
  if process != CALM:
    return [System(process, '', num_layers)]
  exits = [*(x for x in sorted(exits) if 0 < x < num_layers), MIXED]
  return [
    System(CALM, measure, exit)
    for measure in measures
    for exit in (num_layers, *exits)
    if exit == MIXED or exit >= first_layers[measure]
  ]
