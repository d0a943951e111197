"""How outputs are chosen: flags of `calm generate` and `calm infer`.

flags --> check --> threshold_for, Search --> DecodeRequest of texts
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calm_jax import errors
from calm_jax.cli import loading, settings

if TYPE_CHECKING:
  from calm_jax.decode import generation
  from calm_jax.decode import request as request_lib
  from calm_jax.records import model_description


def settings_of(default_threshold: float) -> tuple[settings.Setting, ...]:
  """The settings, of a stage with that threshold where none is given."""
  return (
    settings.Setting(
      'threshold',
      None,
      'a token leaves at the first layer with this confidence; 1 is the full'
      f' model; {default_threshold:g} without a calibration',
      kind=float,
    ),
    *_OTHERS,
  )


_OTHERS = (
  settings.Setting(
    'calibration',
    None,
    'JSON file of calm calibrate, whose threshold to use',
    macro='CALIBRATION_FILE',
  ),
  settings.Setting(
    'temperature',
    None,
    'draw tokens, with their logits divided by it; without it, and without'
    ' --top_k and --top_p, the most probable token is taken',
    kind=float,
  ),
  settings.Setting(
    'top_k', 0, 'draw from so many tokens; 0 for all', macro='SAMPLING_TOP_K'
  ),
  settings.Setting(
    'top_p',
    0.0,
    'draw from the tokens that together are so probable; 0 for all',
  ),
  settings.Setting(
    'seed',
    None,
    'of the draws, from 0 to 2^32 - 1; 0 if absent',
    kind=int,
    macro='SAMPLING_SEED',
  ),
  settings.Setting(
    'num_decodes',
    1,
    'outputs per text; draws, or the best beams of --beam_size',
    minimum=1,
  ),
  settings.Setting(
    'beam_size',
    None,
    'search with so many beams, with the full model, for the best output, or'
    ' the best --num_decodes of them',
    kind=int,
    minimum=1,
  ),
  settings.Setting(
    'alpha',
    None,
    'exponent of the length penalty of --beam_size; 0 for none, 0.6 if absent',
    kind=float,
    macro='BEAM_ALPHA',
  ),
  settings.Setting(
    'max_decode_length',
    None,
    'longest output in tokens; as the model says if absent',
    kind=int,
    minimum=1,
  ),
  settings.Setting('prompt', None, 'how every output begins'),
)


def check(chosen) -> None:
  """Checks what was chosen, before a model is loaded.

  Raises:
    ConfigError: the threshold is outside [0, 1], or given twice; flags that do
      not go together, or a number out of range.
    DataError: a prompt that is not UTF-8.
  """
  _check_threshold(chosen)
  _check_search(chosen)
  if chosen.beam_size is not None or _draws(chosen):
    decode_fn_for(chosen)
  if chosen.prompt is not None:
    check_is_text('The prompt', chosen.prompt)


def _check_threshold(chosen) -> None:
  if chosen.threshold is None:
    return
  if chosen.calibration is not None:
    raise errors.ConfigError(
      'Give either a threshold or a calibration, not both.'
    )
  if not 0.0 <= chosen.threshold <= 1.0:
    raise errors.ConfigError(
      f'The threshold must be in [0, 1], got {chosen.threshold}; 1 is the full'
      ' model.'
    )


def leaves_early(chosen) -> bool:
  """Whether tokens may leave before the last layer."""
  return chosen.calibration is not None or (
    chosen.threshold is not None and chosen.threshold < 1.0
  )


def is_greedy(chosen) -> bool:
  """Whether every token is the most probable one, none a prompt's."""
  is_chosen = chosen.beam_size is not None or chosen.prompt is not None
  return not (is_chosen or _draws(chosen))


def _draws(chosen) -> bool:
  return chosen.temperature is not None or bool(chosen.top_k or chosen.top_p)


def _check_search(chosen) -> None:
  """Raises ConfigError for what does not go together."""
  if chosen.seed is not None and not _draws(chosen):
    raise errors.ConfigError(
      'A seed is for draws: add --temperature, --top_k or --top_p, or leave out'
      ' --seed.'
    )
  if chosen.beam_size is not None:
    _check_beams(chosen)
  elif chosen.alpha is not None:
    raise errors.ConfigError(
      'alpha is the length penalty of a beam search: add --beam_size, or leave'
      ' out --alpha.'
    )
  elif chosen.num_decodes > 1 and not _draws(chosen):
    raise errors.ConfigError(
      'num_decodes above 1 needs --temperature, --top_k, --top_p or'
      ' --beam_size: without them all outputs are the same.'
    )


def _check_beams(chosen) -> None:
  if leaves_early(chosen) or _draws(chosen):
    raise errors.ConfigError(
      'Beam search is for the full model alone: scores of different layers'
      ' cannot be compared. Leave out --threshold (or give 1), --calibration,'
      ' --temperature, --top_k and --top_p, or --beam_size.'
    )
  if chosen.num_decodes > chosen.beam_size:
    raise errors.ConfigError(
      f'num_decodes must be at most beam_size {chosen.beam_size}, got'
      f' {chosen.num_decodes}: a search finds no more outputs than it has'
      ' beams.'
    )


def decode_fn_for(chosen):
  """How the flags make a model choose tokens.

  Raises:
    ConfigError: a number out of range.
  """
  from calm_jax.decode import beam_search, decode_fns
  from calm_jax.early_exit.engine import sampling

  if chosen.beam_size is not None:
    given = {} if chosen.alpha is None else {'alpha': chosen.alpha}
    return beam_search.BeamSearch(**given)
  if not _draws(chosen):
    return decode_fns.Greedy()
  if chosen.seed is not None:
    sampling.check_seed(chosen.seed)
  return sampling.Sampler(
    temperature=1.0 if chosen.temperature is None else chosen.temperature,
    top_k=chosen.top_k,
    top_p=chosen.top_p,
  )


def threshold_for(chosen, loaded: loading.LoadedModel, default: float) -> float:
  """The threshold asked for, or the calibrated one of the same model.

  Raises:
    DataError: the calibration is of another model, of another longest output,
      or of outputs whose tokens were chosen in another way.
  """
  if chosen.beam_size is not None:
    return 1.0
  if chosen.calibration is None:
    return default if chosen.threshold is None else chosen.threshold
  from calm_jax.records import contracts

  result = contracts.read_json(chosen.calibration, contracts.CalibrationResult)
  loading.check_same_model(
    result.dump.model,
    description_for(chosen, loaded),
    f'The calibration {chosen.calibration}',
    'Give the model, flags and gin files that it was made with; or give its'
    f' threshold itself, --threshold={result.threshold}, which promises nothing'
    ' here.',
  )
  return result.threshold


def description_for(
  chosen, loaded: loading.LoadedModel
) -> 'model_description.ModelDescription':
  """The model, with how the flags make it choose tokens, and how many."""
  return loaded.description(
    decode_fn=decode_fn_for(chosen), max_decode_length=chosen.max_decode_length
  )


def check_is_text(what: str, text: str) -> None:
  """Raises DataError for text that came from bytes which were not UTF-8."""
  # Python turns such bytes of the command line into lone surrogates, which
  # some tasks would drop without a word.
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise errors.DataError(
      f'{what} must be UTF-8; it is not, at character {error.start + 1}.'
    ) from error


class Search:
  """Texts with their prefixes -> a request for outputs of each."""

  def __init__(
    self, chosen, generator: 'generation.TextGenerator', threshold: float
  ):
    """Decodes nothing yet.

    Args:
      chosen: settings that `check` let pass.
      generator: the model.
      threshold: from `threshold_for`.
    """
    self._chosen = chosen
    self._generator = generator
    self._threshold = threshold
    self._decode_fn = decode_fn_for(chosen)

  @property
  def rows_per_text(self) -> int:
    """How many sequences are made side by side for one text."""
    return self._chosen.beam_size or self._chosen.num_decodes

  def request(self, texts: Sequence[str]) -> 'request_lib.DecodeRequest':
    """What `TextGenerator.answer` takes; raises as `text_request`.

    Args:
      texts: as the task writes them.
    """
    chosen = self._chosen
    prompts = None if chosen.prompt is None else [chosen.prompt] * len(texts)
    return self._generator.text_request(
      texts,
      self.rows_per_text,
      threshold=self._threshold,
      decode_fn=self._decode_fn,
      seed=chosen.seed or 0,
      prompts=prompts,
      max_decode_length=chosen.max_decode_length,
    )
