"""Each row of the list of faults is tested somewhere, or does not apply.

The list is that of docs/reliability.md. A test carries the number of its row:
`test_fault_NN_what_is_seen`.
"""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
ROWS = range(1, 69)
NOT_APPLICABLE = {
  44: (
    'Cached tasks of seqio are never read: text is tokenized as it comes, and'
    ' USE_CACHED_TASKS is an unknown macro (as fault 1); the gin files for T5X'
    ' itself set it to False.'
  ),
}


def rows_with_tests():
  """Row -> the tests that carry its number."""
  found = {}
  for path in (ROOT / 'tests').rglob('*_test.py'):
    text = path.read_text(encoding='utf-8')
    for name, number in re.findall(r'def (test_fault_(\d\d)_\w+)\(', text):
      found.setdefault(int(number), []).append(name)
  return found


def test_every_fault_is_tested_or_does_not_apply():
  tested = set(rows_with_tests())
  assert tested | set(NOT_APPLICABLE) == set(ROWS)
  assert not tested & set(NOT_APPLICABLE)
  assert all(reason.endswith('.') for reason in NOT_APPLICABLE.values())


def test_the_page_lists_every_fault():
  page = (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8')
  listed = re.findall(r'^\| (\d+) \|', page, re.MULTILINE)
  assert [int(x) for x in listed if int(x) in ROWS] == list(ROWS)
