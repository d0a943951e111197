"""Text that a page must show and never obey, and records full of it."""

import dataclasses

from calm_jax.records import contracts

MARKUP = '</span><script>alert(1)</script>"\'><img src=x onerror=y>&amp;'
SCRIPT = (
  "</script></style></title><svg onload=document.title='owned'><a href="
  '"javascript:document.title=1">'
)
BIDI = 'a\u202eb\u2066c\u200bd\x00e'
TERMINAL = '\x1b]0;owned\x07\x1b[2J\x9b31m'
TEMPLATE = '{{ 7 * 7 }}{% raw %}'
EVERYTHING = (MARKUP, SCRIPT, BIDI, TERMINAL, TEMPLATE)

# Fields that a record takes only from a list.
_KEPT = ('consistency', 'metric', 'task', 'decode_mode', 'guarantee', 'shards')


def poison(value, text):
  """The record with `text` in every string that is not an enumeration."""
  if isinstance(value, str):
    return text
  if isinstance(value, tuple):
    return tuple(poison(item, text) for item in value)
  if isinstance(value, dict):
    return {
      poison(key, text): poison(item, text) for key, item in value.items()
    }
  if isinstance(value, contracts.Description):
    # Its numbers stay: a network has layers.
    return contracts.Description(text, {**value.knobs, text: text})
  if not dataclasses.is_dataclass(value):
    return value
  return dataclasses.replace(
    value,
    **{
      field.name: poison(getattr(value, field.name), text)
      for field in dataclasses.fields(value)
      if field.name not in _KEPT
    },
  )


def poison_results(calibration, evaluation, text):
  """A calibration and its evaluation with `text` in the task's name too."""
  task = f'task {text}'
  calibration = poison(calibration, text)
  dump = dataclasses.replace(calibration.dump, task=task)
  return (
    dataclasses.replace(calibration, dump=dump),
    dataclasses.replace(poison(evaluation, text), task=task),
  )
