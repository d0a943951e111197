"""One description of a model, which dumps and inference runs carry whole.

model --decode.description--> ModelDescription --> manifest, job, calibration
"""

import dataclasses

from calm_jax.records import json_records, record_checks
from calm_jax.records.descriptions import Description

# Layers used are int8 in a dump.
_MOST_LAYERS = 127


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelDescription(json_records.Record):
  """All that decides, with a text and a threshold, what a model gives.

  A threshold that was calibrated with one model holds for no other. What only
  decides how numbers are rounded, as the size of a batch, is not here.

  Attributes:
    params_digest: SHA-256 of all parameters, exit classifiers' among them.
    vocabulary_digest: SHA-256 of the vocabulary.
    network: its class, and its sizes by their names in `t5.network.T5Config`.
    measure: of confidence.
    threshold_schedule: of the threshold over the positions.
    exit_layers: after which a token may leave, 1..L, ascending; the last is L.
    skipped_layers: what the layers that a token skipped see of it.
    output_length: bounds an output by its input; None where nothing but
      `max_decode_length` does.
    decode_fn: how tokens are chosen; 'Greedy' in every dump.
    inputs_length: longer inputs are cut, in tokens.
    max_decode_length: of the longest output, in tokens, EOS included.
    eos_id: the token that ends an output.

  Raises:
    DataError: when made, if the exits are not those of the network.
  """

  params_digest: str
  vocabulary_digest: str
  network: Description
  measure: Description
  threshold_schedule: Description
  exit_layers: tuple[int, ...]
  skipped_layers: Description
  output_length: Description | None
  decode_fn: Description
  inputs_length: int
  max_decode_length: int
  eos_id: int

  def __post_init__(self):
    num_layers = self.network.knobs.get('num_decoder_layers')
    record_checks.require(
      type(num_layers) is int and 1 <= num_layers <= _MOST_LAYERS,
      f'num_decoder_layers must be in 1..{_MOST_LAYERS}, got {num_layers}',
    )
    record_checks.require(
      self.max_decode_length >= 1,
      f'max_decode_length must be positive, got {self.max_decode_length}',
    )
    exits = self.exit_layers
    record_checks.require(
      exits[:1] >= (1,)
      and exits[-1] == num_layers
      and all(low < high for low, high in zip(exits, exits[1:], strict=False)),
      'exit_layers must ascend from at least 1 and end with the last layer'
      f' {num_layers}, got {exits}',
    )

  @property
  def num_decoder_layers(self) -> int:
    """L."""
    return self.network.knobs['num_decoder_layers']
