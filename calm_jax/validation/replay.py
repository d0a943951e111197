"""Thresholds replayed on the trace of the full model: an estimate in seconds.

    trace_confidences, trace_tokens --schedule, exits--> tokens, layers

A dump holds, along the full model's output, how confident every layer was and
which token it would have given. So for any threshold it is known where each
token would have left and what it would have been, *if all tokens before it had
been the full model's*, computed by all layers. That is what makes it fast, and
what makes it an estimate: in truth a wrong token changes what follows, and
later tokens see the states of tokens that left early. The guarantee rests on
texts generated at each threshold (`contracts.GENERATED`); what is made here is
`contracts.REPLAYED`, and `gaps` says how far the two are apart.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from calm_jax import errors
from calm_jax.calibration import risks
from calm_jax.records import contracts, dump_arrays
from calm_jax.validation import replay_schedules, validation_records

TOKEN_DISAGREEMENT = 'token_disagreement'
# It leaves where the layers agree, not where a confidence says so.
_ORACLE = 'Oracle'


@dataclasses.dataclass(frozen=True)
class Exits:
  """After which layers a token may leave, as `early_exit.schedule.ExitLayers`.

  A dump made with fewer exits has no confidence at the others, so a replay can
  take exits away from a dump but not add any.

  Attributes:
    first_exit: layer of the first exit, 1..L.
    exit_interval: layers from one exit to the next.
    min_exit: number of layers that every token uses.

  Raises:
    ConfigError: a number below its minimum.
  """

  first_exit: int = 1
  exit_interval: int = 1
  min_exit: int = 0

  def __post_init__(self):
    if self.first_exit < 1 or self.exit_interval < 1 or self.min_exit < 0:
      raise errors.ConfigError(
        'first_exit and exit_interval must be at least 1, and min_exit at least'
        f' 0, got {self}.'
      )

  def mask(self, num_layers: int) -> np.ndarray:
    """[L] bool: exits before the last layer."""
    layers = np.arange(1, num_layers + 1)
    is_exit = (layers - self.first_exit) % self.exit_interval == 0
    is_exit &= (layers >= self.first_exit) & (layers >= self.min_exit)
    is_exit[-1] = False
    return is_exit


@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
  """What the model would have done by its trace; an estimate.

  Attributes:
    thresholds: [G].
    tokens: [N, G, T] int32, each position's token at its simulated exit; 0
      where there is none.
    num_layers_used: [N, G, T] int8, 1..L, 0 where there is no token.
    full_tokens: [N, T] int32, the full model's output.
    decode_mode: `contracts.REPLAYED`.
  """

  thresholds: tuple[float, ...]
  tokens: np.ndarray
  num_layers_used: np.ndarray
  full_tokens: np.ndarray
  decode_mode: str = contracts.REPLAYED

  def disagreement(self) -> np.ndarray:
    """[N, G] in [0, 1]: share of the full output's tokens that are others."""
    return token_disagreement(self.tokens, self.full_tokens)

  def mean_layers(self) -> np.ndarray:
    """[G] layers per token, over all tokens."""
    return dump_arrays.mean_layers(self.num_layers_used)

  def predictions(self, decode: Callable[[np.ndarray], str]) -> np.ndarray:
    """[N, G] texts, by a tokenizer's `decode` of one row of tokens."""
    return np.array([[decode(row) for row in rows] for rows in self.tokens])


def can_be_replayed(model: contracts.ModelDescription) -> bool:
  """Whether its measure decides by confidences."""
  return model.measure.kind != _ORACLE


def replay(
  manifest: contracts.Manifest,
  dump: contracts.Dump,
  thresholds: Sequence[float] | None = None,
  schedule: replay_schedules.Schedule | None = None,
  exits: Exits = Exits(),  # noqa: B008
) -> Replay:
  """Simulates a grid of thresholds from the full model's trace.

  Args:
    manifest, dump: of any measure that compares a confidence of the current
      token with the threshold.
    thresholds: [G] in [0, 1], in any order; the dump's if None.
    schedule: of the threshold over the positions; the dump's if None.
    exits: after which layers a token may leave.

  Raises:
    ConfigError: no threshold, or one outside [0, 1].
    DataError: the measure does not decide by a confidence.
  """
  grid = manifest.thresholds if thresholds is None else tuple(thresholds)
  values = np.asarray(grid, np.float32)
  inside = (values >= 0) & (values <= 1)  # NaN is not.
  if not (values.ndim == 1 and len(values) and inside.all()):
    raise errors.ConfigError(
      f'A replay needs thresholds in [0, 1], got {list(grid)}.'
    )
  model = manifest.model
  if not can_be_replayed(model):
    raise errors.DataError(
      f'A dump of the measure {model.measure} cannot be replayed: it leaves'
      ' where the layers agree, not where a confidence reaches a threshold.'
    )
  schedule = schedule or replay_schedules.schedule_of(model.threshold_schedule)
  in_force = schedule(values, model.max_decode_length)
  may_leave = exits.mask(model.num_decoder_layers)
  is_token = dump.num_layers_used[:, 0] > 0
  rows = [_replayed(dump, is_token, line, may_leave) for line in in_force]
  tokens, used = zip(*rows, strict=True)
  return Replay(
    grid, np.stack(tokens, axis=1), np.stack(used, axis=1), dump.tokens[:, 0]
  )


def token_disagreement(tokens: np.ndarray, full: np.ndarray) -> np.ndarray:
  """[N, G, T] tokens, [N, T] of the full output -> [N, G] share that differs.

  Position by position along the full output, so that one word left out makes
  all that follows differ.
  """
  is_token = full[:, None] > 0
  differs = (tokens != full[:, None]) & is_token
  return differs.sum(axis=2) / np.maximum(is_token.sum(axis=2), 1)


def gaps(
  manifest: contracts.Manifest,
  dump: contracts.Dump,
  objective: risks.Consistency | None = None,
  decode: Callable[[np.ndarray], str] | None = None,
  name: str = '',
) -> tuple[validation_records.ReplayGapRow, ...]:
  """How far the replay is from what the model generated, at each threshold.

  Args:
    manifest, dump: with texts generated at each threshold.
    objective: the loss that is compared; with it `decode` is needed. Without
      it, the share of tokens that differ from the full model's.
    decode: a tokenizer's, from one row of tokens to text.
    name: of the dump, for the rows.

  Raises:
    DataError: `decode` does not give the dump's texts, or as `replay`.
  """
  replayed = replay(manifest, dump)
  if decode is not None:
    check_decodes(dump, decode)
  if objective is None or decode is None:
    label = TOKEN_DISAGREEMENT
    losses: tuple[np.ndarray, ...] = (
      token_disagreement(dump.tokens, dump.tokens[:, 0]),
      replayed.disagreement(),
    )
  else:
    label = f'{objective.name} {getattr(objective.metric, "__name__", "")}'
    losses = tuple(
      objective.losses(texts, dump.references, dump.example_ids)
      for texts in (dump.predictions, replayed.predictions(decode))
    )
  generated, simulated = (values.mean(axis=0) for values in losses)
  layers = dump.mean_layers(), replayed.mean_layers()
  return tuple(
    validation_records.ReplayGapRow(
      dump=name,
      loss=label.strip(),
      threshold=threshold,
      generated_loss=float(generated[g]),
      replayed_loss=float(simulated[g]),
      loss_gap=float(simulated[g] - generated[g]),
      generated_layers=float(layers[0][g]),
      replayed_layers=float(layers[1][g]),
      layers_gap=float(layers[1][g] - layers[0][g]),
    )
    for g, threshold in enumerate(manifest.thresholds)
  )


def check_decodes(
  dump: contracts.Dump, decode: Callable[[np.ndarray], str]
) -> None:
  """Raises a DataError if a dump was made with another tokenizer."""
  for row, text in zip(dump.tokens[:, 0], dump.predictions[:, 0], strict=True):
    if (decoded := decode(row)) != text:
      raise errors.DataError(
        'The vocabulary must be the one that the dump was made with, but it'
        f' reads {decoded[:80]!r} where the dump has {text[:80]!r}.'
      )


def _replayed(dump, is_token, in_force, may_leave):
  """[N, T] tokens and layers where [T] thresholds are in force."""
  confident = dump.trace_confidences >= in_force[:, None]
  # A threshold of 1 never lets a token leave, by rule.
  leaves = confident & may_leave & (in_force[:, None] < 1.0)
  leaves[..., -1] = True
  layer = leaves.argmax(axis=-1)
  tokens = np.take_along_axis(dump.trace_tokens, layer[..., None], -1)[..., 0]
  # What follows a simulated EOS would not have been generated.
  is_end = tokens == dump_arrays.EOS_ID
  ended = np.cumsum(is_end, axis=1) - is_end > 0
  is_token = is_token & ~ended
  used = np.where(is_token, layer + 1, 0)
  return np.where(is_token, tokens, 0), used.astype(np.int8)
