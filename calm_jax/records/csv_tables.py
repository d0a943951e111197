"""CSV as the stages write it: a header, then a line a row.

Names in a table come from files that others may have made. Spreadsheets run a
cell that begins like a formula, so that such text gets an apostrophe in front,
which they do not show (OWASP, "CSV Injection"); lone surrogates, which no file
can hold, become their codes. Standard library only.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA_STARTS = ('=', '+', '-', '@', '\t', '\r', '\n', '\uff1d', '\uff20')


def to_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """The table as text.

  Args:
    names: of the columns.
    rows: a cell for each column: text, numbers, or None for an empty one.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(names)
  writer.writerows(map(_cell, row) for row in rows)
  return text.getvalue()


def of_records(records: Sequence[Any]) -> str:
  """The table of at least one dataclass instance, all of one class."""
  names = [field.name for field in dataclasses.fields(records[0])]
  return to_csv(
    names, ([getattr(record, name) for name in names] for record in records)
  )


def _cell(value: Any) -> Any:
  if not isinstance(value, str):
    return value
  text = value.encode('utf-8', 'backslashreplace').decode('utf-8')
  return f"'{text}" if text.lstrip(' ').startswith(_FORMULA_STARTS) else text
