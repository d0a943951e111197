"""CSV as the stages write it: a header, then a line a row.

Names in a table come from files that others may have made. Spreadsheets run a
cell that begins like a formula, so that such text gets an apostrophe in front,
which they do not show (OWASP, "CSV Injection"). Standard library only.
"""

import csv
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


def _cell(value: Any) -> Any:
  if isinstance(value, str) and value.lstrip(' ').startswith(_FORMULA_STARTS):
    return f"'{value}"
  return value
