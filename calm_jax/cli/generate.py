"""`calm generate`: text in, text out, each token with the layers it used."""

import itertools
import sys
from collections.abc import Iterator

from calm_jax import errors
from calm_jax.cli import flags, loading, search, settings
from calm_jax.display import terminal, visible_text

DESCRIPTION = """Generate text; each token shows how many layers it used.

  calm generate 'this function returns none if its argument isnt a string'
  calm generate --calibration=calibration.json < lines.txt

Without TEXT, each line of the standard input is one text."""

_DEFAULT_THRESHOLD = 0.9
_FORMATS = ('auto', 'color', 'layers', 'text')

SETTINGS = (
  loading.MODEL,
  loading.TASK,
  *search.settings_of(_DEFAULT_THRESHOLD),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds the output's format and the texts."""
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
  search.check(chosen)
  texts = iter(args.texts) if args.texts else lines_of(sys.stdin)
  # The first text before the model, which takes seconds to load.
  first = next(texts, None)
  if first is None:
    raise errors.DataError('There must be at least one text, got none.')
  loaded = loading.load(chosen)
  threshold = search.threshold_for(chosen, loaded, _DEFAULT_THRESHOLD)
  write = _Writer(loaded, threshold, args.format, chosen)
  for number, text in enumerate(itertools.chain([first], texts), start=1):
    write(number, text, chosen.task)
  write.close()


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


class _Writer:
  """Prints one generation after the other, and a summary at the end."""

  def __init__(self, loaded, threshold: float, form: str, chosen):
    self._generator = loaded.generator
    self._search = search.Search(chosen, loaded.generator, threshold)
    self._num_decodes = chosen.num_decodes
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

    search.check_is_text(f'Text {number}', text)
    info = task_examples.get_task(task)
    inputs = info.inputs_of(text)
    if not inputs.removeprefix(info.prefix).strip():
      raise errors.DataError(
        f'Every text must hold at least one word; text {number} is empty.'
      )
    (outputs,) = self._generator.answer(self._search.request([inputs]))
    for result in outputs[: self._num_decodes]:
      print(self._shown(result), flush=True)
      # Pieces of a prompt use no layers, and are no choice of the model.
      self._tokens += sum(used > 0 for used in result.num_layers_used)
      self._layers += sum(result.num_layers_used)

  def _shown(self, result) -> str:
    if self._form == 'text':
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
