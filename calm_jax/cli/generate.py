"""`calm generate`: text in, text out, each token with the layers it used."""

import sys
from collections.abc import Iterator

from calm_jax import errors
from calm_jax.cli import flags, loading, settings, terminal

DESCRIPTION = """Generate text; each token shows how many layers it used.

  calm generate 'this function returns none if its argument isnt a string'
  calm generate --calibration=calibration.json < lines.txt

Without TEXT, each line of the standard input is one text."""

_DEFAULT_THRESHOLD = 0.9
_FORMATS = ('auto', 'color', 'layers', 'text')

SETTINGS = (
  loading.MODEL,
  loading.TASK,
  settings.Setting(
    'threshold',
    'THRESHOLD',
    float,
    None,
    'a token leaves at the first layer with this confidence; 1 is the full'
    f' model; {_DEFAULT_THRESHOLD} without a calibration',
  ),
  settings.Setting(
    'calibration',
    'CALIBRATION_FILE',
    str,
    None,
    'JSON file of calm calibrate, whose threshold to use',
  ),
  settings.Setting(
    'temperature',
    'TEMPERATURE',
    float,
    None,
    'draw tokens, with their logits divided by it; without it, and without'
    ' --top_k and --top_p, the most probable token is taken',
  ),
  settings.Setting(
    'top_k', 'SAMPLING_TOP_K', int, 0, 'draw from so many tokens; 0 for all'
  ),
  settings.Setting(
    'top_p',
    'TOP_P',
    float,
    0.0,
    'draw from the tokens that together are so probable; 0 for all',
  ),
  settings.Setting(
    'seed',
    'SAMPLING_SEED',
    int,
    None,
    'of the draws, from 0 to 2^32 - 1; 0 if absent',
  ),
  settings.Setting(
    'num_decodes',
    'NUM_DECODES',
    int,
    1,
    'outputs per text, the best first; draws, or beams of --beam_size',
    minimum=1,
  ),
  settings.Setting(
    'beam_size',
    'BEAM_SIZE',
    int,
    None,
    'search with so many beams, with the full model, for the best output, or'
    ' the best --num_decodes of them',
    minimum=1,
  ),
  settings.Setting(
    'alpha',
    'BEAM_ALPHA',
    float,
    None,
    'exponent of the length penalty of --beam_size; 0 for none, 0.6 if absent',
  ),
  settings.Setting(
    'max_decode_length',
    'MAX_DECODE_LENGTH',
    int,
    None,
    'longest output in tokens; as the model says if absent',
    minimum=1,
  ),
  settings.Setting('prompt', 'PROMPT', str, None, 'how every output begins'),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds the settings, the output's format and the texts."""
  settings.add_flags(parser, SETTINGS)
  parser.add_argument(
    '--format',
    choices=_FORMATS,
    default='auto',
    help='color: on a scale by layers; layers: token/layers; text: only the'
    ' text; auto: color on a terminal without NO_COLOR, else layers',
  )
  parser.add_argument(
    'texts', nargs='*', metavar='TEXT', help='a text; quote it in the shell'
  )


def run(args) -> None:
  """Generates text by text.

  Raises:
    ConfigError: the threshold is outside [0, 1], or given twice; flags that do
      not go together.
    DataError: an empty text, one or a prompt that is not UTF-8, or a
      calibration of another model.
  """
  chosen = settings.settle(args, SETTINGS)
  _check_threshold(chosen)
  _check_search(chosen)
  sampler = sampler_for(chosen)
  if chosen.prompt is not None:
    _check_is_text('The prompt', chosen.prompt)
  texts = iter(args.texts) if args.texts else lines_of(sys.stdin)
  # The first text before the model, which takes seconds to load.
  first = next(texts, None)
  if first is None:
    raise errors.DataError('There must be at least one text, got none.')
  loaded = loading.load(chosen)
  threshold = threshold_for(chosen, loaded)
  write = _Writer(loaded, threshold, args.format, chosen, sampler)
  for number, text in enumerate(_chain(first, texts), start=1):
    write(number, text, chosen.task)
  write.close()


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
  yield first
  yield from rest


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
  leaves_early = chosen.calibration is not None or (
    chosen.threshold is not None and chosen.threshold < 1.0
  )
  if leaves_early or _draws(chosen):
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
  if chosen.alpha is not None:
    from calm_jax import beam_search

    beam_search.check_alpha(chosen.alpha)


def sampler_for(chosen):
  """The sampler that the flags ask for, or None.

  Raises:
    ConfigError: a number out of range.
  """
  if not _draws(chosen):
    return None
  from calm_jax.early_exit import sampling

  if chosen.seed is not None:
    sampling.check_seed(chosen.seed)
  return sampling.Sampler(
    temperature=1.0 if chosen.temperature is None else chosen.temperature,
    top_k=chosen.top_k,
    top_p=chosen.top_p,
  )


def threshold_for(chosen, loaded: loading.LoadedModel) -> float:
  """The threshold asked for, or the calibrated one of the same model.

  Raises:
    DataError: the calibration belongs to another model or configuration.
  """
  if chosen.beam_size is not None:
    return 1.0
  if chosen.calibration is None:
    given = chosen.threshold
    return _DEFAULT_THRESHOLD if given is None else given
  from calm_jax import contracts

  result = contracts.read_json(chosen.calibration, contracts.CalibrationResult)
  loading.check_same_model(
    loaded, result.dump, f'The calibration {chosen.calibration}'
  )
  return result.threshold


def lines_of(stream) -> Iterator[str]:
  """Lines of a text stream, decoded strictly.

  Raises:
    DataError: a line is not UTF-8.
  """
  if stream.isatty():
    print('One text per line; end with Ctrl-D.', file=sys.stderr)
  for number, line in enumerate(stream.buffer, start=1):
    try:
      yield line.decode('utf-8').rstrip('\r\n')
    except UnicodeDecodeError as error:
      raise errors.DataError(
        f'Line {number} of the standard input must be UTF-8: {error.reason} at'
        f' byte {error.start}.'
      ) from error


def _check_is_text(what: str, text: str) -> None:
  # Python turns such bytes of the command line into lone surrogates, which
  # some tasks would drop without a word.
  try:
    text.encode('utf-8')
  except UnicodeEncodeError as error:
    raise errors.DataError(
      f'{what} must be UTF-8; it is not, at character {error.start + 1}.'
    ) from error


def _given(options: dict) -> dict:
  return {name: x for name, x in options.items() if x is not None}


class _Writer:
  """Prints one generation after the other, and a summary at the end."""

  def __init__(self, loaded, threshold: float, form: str, chosen, sampler):
    self._chosen, self._sampler = chosen, sampler
    self._generator = loaded.generator
    self._num_layers = loaded.generator.model.config.num_decoder_layers
    self._threshold = threshold
    self._tokens, self._layers = 0, 0
    if form == 'auto':
      form = 'color' if terminal.wants_color(sys.stdout) else 'layers'
    self._form = form
    if form == 'color':
      print(terminal.legend(self._num_layers))

  def __call__(self, number: int, text: str, task: str) -> None:
    from calm_jax.data import task_examples

    _check_is_text(f'Text {number}', text)
    info = task_examples.get_task(task)
    inputs = info.inputs_of(text)
    if not inputs.removeprefix(info.prefix).strip():
      raise errors.DataError(
        f'Every text must hold at least one word; text {number} is empty.'
      )
    for result in self._outputs(inputs):
      print(self._shown(result), flush=True)
      # Pieces of a prompt use no layers, and are nobody's choice.
      self._tokens += sum(used > 0 for used in result.num_layers_used)
      self._layers += sum(result.num_layers_used)

  def _outputs(self, inputs: str) -> list:
    chosen = self._chosen
    # Only what was given: the generator has its own defaults.
    options = {'max_decode_length': chosen.max_decode_length}
    if chosen.prompt is not None:
      options['prompts'] = [chosen.prompt]
    if chosen.beam_size is not None:
      options['alpha'] = chosen.alpha
      (found,) = self._generator.beam_search(
        [inputs], chosen.beam_size, **_given(options)
      )
      return found[: chosen.num_decodes]
    (found,) = self._generator.generate_many(
      [inputs],
      chosen.num_decodes,
      threshold=self._threshold,
      sampler=self._sampler,
      seed=chosen.seed or 0,
      **_given(options),
    )
    return found

  def _shown(self, result) -> str:
    if self._form == 'text':
      from calm_jax.report import visible_text

      return visible_text.visible(result.text)
    pieces, used = result.pieces, result.num_layers_used
    if self._form == 'layers':
      return terminal.plain(pieces, used)
    return terminal.colored(pieces, used, self._num_layers)

  def close(self) -> None:
    """Says on stderr what was saved."""
    mean = self._layers / max(self._tokens, 1)
    print(
      f'threshold {self._threshold:g}: {mean:.2f} of {self._num_layers} decoder'
      f' layers per token, {self._tokens} tokens',
      file=sys.stderr,
    )
