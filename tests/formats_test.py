"""docs/formats.md tells every field of every record, as the code has them."""

import dataclasses
import importlib
import re

from docs import generate_formats

TEXT = generate_formats.PAGE.read_text(encoding='utf-8')
NAMES = re.findall(r'<!-- fields of ([\w.]+) -->', TEXT)


def test_the_tables_are_not_stale():
  assert generate_formats.page(TEXT) == TEXT, (
    'Run: python -m docs.generate_formats'
  )


def test_the_tables_have_the_fields_of_the_records():
  """By importing them, where the script reads their source."""
  for name in NAMES:
    module, _, cls = name.rpartition('.')
    record = getattr(importlib.import_module(f'calm_jax.{module}'), cls)
    shown = TEXT.split(f'<!-- fields of {name} -->')[1].split('<!-- end')[0]
    assert re.findall(r'^\| `(\w+)`', shown, re.MULTILINE) == [
      field.name for field in dataclasses.fields(record)
    ]
    assert not re.search(r'\|\s*\|$', shown.split('|---|\n')[1], re.MULTILINE)


def test_every_record_that_crosses_stages_is_there():
  from calm_jax.records import contracts

  records = {
    name
    for name, item in vars(contracts).items()
    if dataclasses.is_dataclass(item)
  }
  assert records == {name.rpartition('.')[2] for name in NAMES} - {
    '_ConfigFile'
  }
