"""What was found, whether it is wrong, and how to fix it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from calm_jax.records import json_records

OK, NOTE, WRONG = 'ok', 'note', 'wrong'
_MARKS = {OK: '  ok ', NOTE: 'note ', WRONG: 'WRONG'}


@dataclasses.dataclass(frozen=True)
class Finding(json_records.Record):
  """One thing that was looked at.

  Attributes:
    topic: what, such as 'jax' or 'MODEL_DIR'.
    status: `OK`; `NOTE` for what only some need; `WRONG` for what all, or this
      user, need.
    found: what is there.
    fix: what to do; '' where nothing is to be done.
  """

  topic: str
  status: str
  found: str
  fix: str = ''

  def text(self, width: int) -> str:
    """One or two lines for people; topics take `width` letters."""
    text = f'{_MARKS[self.status]}  {self.topic:{width}}  {self.found}'
    return text + (f'\n{"":{width + 9}}-> {self.fix}' if self.fix else '')


def guarded(
  topic: str, look: Callable[[], Iterable[Finding]], fix: str
) -> Iterator[Finding]:
  """The findings of a look; where it fails, that is one more, with `fix`."""
  try:
    yield from look()
  # A damaged installation may raise anything.
  except Exception as error:
    said = f'{type(error).__name__}: {error}'.splitlines()[0]
    yield Finding(topic, WRONG, said, fix)


def wrong(found: Iterable[Finding]) -> list[str]:
  """The topics of what is wrong."""
  return [finding.topic for finding in found if finding.status == WRONG]
