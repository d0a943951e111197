"""Names in gin files of earlier versions, and what they are called now.

a user's gin file --moved_in--> {name before: name now}, for an error
MODEL_DIR/config.gin --renamed--> the same text with today's names
"""

import re

# A module, what is in it or a parameter of that, without `calm_jax.`; the
# longest that fits decides. Both have as many parts after the module's name.
MOVED = {
  'beam_search': 'decode.beam_search',
  'checkpoints.t5x_adafactor': 't5x.adafactor',
  'consistency_losses': 'training.consistency_losses',
  'decode_fns': 'decode.decode_fns',
  'decode_fns.DecoderParams': 't5x.decoder_params.DecoderParams',
  'decoding': 'decode.lengths',
  'early_exit.classifier_confidence': (
    'early_exit.measures.classifier_confidence'
  ),
  'early_exit.classifiers': 'early_exit.measures.classifiers',
  'early_exit.confidence': 'early_exit.engine.confidence',
  'early_exit.confidence.HiddenStateSaturation': (
    'early_exit.measures.saturation.HiddenStateSaturation'
  ),
  'early_exit.confidence.Patience': 'early_exit.measures.patience.Patience',
  'early_exit.confidence.SoftmaxEntropy': (
    'early_exit.measures.softmax.SoftmaxEntropy'
  ),
  'early_exit.confidence.SoftmaxMaximum': (
    'early_exit.measures.softmax.SoftmaxMaximum'
  ),
  'early_exit.confidence.SoftmaxTopTwoGap': (
    'early_exit.measures.softmax.SoftmaxTopTwoGap'
  ),
  'early_exit.confidence.StaticExit': 'early_exit.measures.static.StaticExit',
  'early_exit.oracle': 'early_exit.measures.oracle',
  'early_exit.propagation': 'early_exit.engine.skipped_layers',
  'early_exit.propagation.ExitState': (
    'early_exit.engine.skipped_layers.ProjectExitState'
  ),
  'early_exit.sampling': 'early_exit.engine.sampling',
  'early_exit.schedule': 'early_exit.engine.schedule',
  'early_exit.screening': 'early_exit.measures.screening',
  'early_exit.top_k': 'early_exit.measures.top_k',
  'losses': 'training.losses',
  'models': 'decode.model',
  'models.EncoderDecoderModel.decode_fn': 't5x.models.T5XModel.decode_fn',
  'models.EncoderDecoderModel.default_decoder_params': (
    't5x.models.T5XModel.default_decoder_params'
  ),
  'models.EncoderDecoderModel.propagation': (
    'decode.model.EncoderDecoderModel.skipped_layers'
  ),
  'optimizers': 'training.optimizers',
  'partitioning': 'parallel.partitioning',
  't5x_models': 't5x.models',
}

_PACKAGE = 'calm_jax.'
_IMPORT = re.compile(
  r'^(?:from (?P<package>[\w.]+) )?import (?P<name>[\w.]+)'
  r'(?: as (?P<alias>\w+))?',
  re.MULTILINE,
)
# Where a name may stand: what is bound, and references, in scopes or not.
_NAME = re.compile(r'(?P<before>^|[@/])(?P<name>[A-Za-z_][\w.]*)', re.MULTILINE)


def moved_in(text: str) -> dict[str, str]:
  """Full name before -> now, of what a gin text uses and is elsewhere now."""
  imports = _imports(text)
  names = [_full(match['name'], imports) for match in _NAME.finditer(text)]
  for module in imports.values():
    if not any(name.startswith(f'{module}.') for name in names):
      names.append(module)
  rows = sorted({row for name in names if (row := _row_of(name))})
  return {_PACKAGE + row: _PACKAGE + MOVED[row] for row in rows}


def renamed(text: str) -> str:
  """The gin text with today's names; its import statements stay."""
  imports = _imports(text)

  def rename(match: re.Match) -> str:
    name = match['name']
    full = _full(name, imports)
    if not (row := _row_of(full)):
      return match[0]
    now = full.replace(_PACKAGE + row, _PACKAGE + MOVED[row], 1)
    if name != full:  # Shortened by an import: the module's last part stays.
      now = '.'.join(now.split('.')[-name.count('.') - 1 :])
    return match['before'] + now

  return _NAME.sub(rename, text)


def _imports(text: str) -> dict[str, str]:
  """Name in the text -> full name of the module."""
  imports = {}
  for found in _IMPORT.finditer(text):
    package = f'{found["package"]}.' if found['package'] else ''
    imports[found['alias'] or found['name']] = package + found['name']
  return imports


def _full(name: str, imports: dict[str, str]) -> str:
  root, dot, rest = name.partition('.')
  return imports.get(root, root) + dot + rest


def _row_of(full: str) -> str:
  """The longest key of `MOVED` that a full name begins with; '' for none."""
  name = full.removeprefix(_PACKAGE) if full.startswith(_PACKAGE) else ''
  while name and name not in MOVED:
    name = name.rpartition('.')[0]
  return name
