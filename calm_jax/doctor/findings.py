"""What was found, whether it is wrong, and how to fix it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from calm_jax.records import json_records

OK, NOTE, WRONG = 'ok', 'note', 'wrong'


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


def guarded(
  topic: str, look: Callable[[], Iterable[Finding]], fix: str
) -> Iterator[Finding]:
  """The findings of a look; where it fails, that is one more.

  Args:
    topic: of that finding.
    look: gives findings.
    fix: what to do where it fails.
  """
  try:
    yield from look()
  # A damaged installation may raise anything.
  except Exception as error:
    said = f'{type(error).__name__}: {error}'.splitlines()[0]
    yield Finding(topic, WRONG, said, fix)


def is_well(findings: Iterable[Finding]) -> bool:
  """Whether nothing is wrong."""
  return all(finding.status != WRONG for finding in findings)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
  """`ok`, and all findings in their order, for machines."""
  return {
    'ok': is_well(findings),
    'findings': [finding.to_json() for finding in findings],
  }


def as_lines(finding: Finding, width: int) -> list[str]:
  """A finding for people; topics take `width` letters."""
  mark = {OK: '  ok ', NOTE: 'note ', WRONG: 'WRONG'}[finding.status]
  lines = [f'{mark}  {finding.topic:{width}}  {finding.found}']
  if finding.fix:
    lines.append(f'{"":{width + 9}}-> {finding.fix}')
  return lines


def summary(findings: Sequence[Finding]) -> str:
  """One sentence over all."""
  wrong = [x.topic for x in findings if x.status == WRONG]
  if not wrong:
    return 'Nothing is wrong.'
  return f'{len(wrong)} to be mended: {", ".join(wrong)}.'
