"""docs/gin_reference.md is what the code says today."""

import ast
import inspect
import pathlib
import re

import gin
import pytest

from calm_jax.config import gin_checks, gin_setup
from docs import generate_gin_reference as generate

ROOT = pathlib.Path(__file__).parents[1]


def test_the_page_is_not_stale():
  assert generate.PAGE.read_text(encoding='utf-8') == generate.page(), (
    'Run: python -m docs.generate_gin_reference'
  )


def test_every_name_that_a_shipped_file_binds_has_its_section():
  """Counted by gin itself, not by reading its files."""
  page, bound = generate.page(), set()
  for path in sorted((ROOT / 'gin').rglob('*.gin')):
    if 't5x' not in path.parts:
      gin_setup.parse([str(path.relative_to(ROOT))], [])
      for (_, selector), _ in gin.config._CONFIG.items():
        if selector.startswith('calm_jax.'):
          assert f'### {selector}\n' in page, path
          bound.add(selector)
  assert 'calm_jax.training.loop.train' in bound and len(bound) > 30


@pytest.mark.parametrize('stage', ['dump', 'infer', 'train', 'finetune'])
def test_macros_have_the_values_that_gin_gives_them(stage):
  name = f'gin/runs/{stage}.gin'
  gin_setup.parse([name], [])
  values = gin_checks.macro_values()
  content = (ROOT / name).read_text(encoding='utf-8')
  listed = {name: value for name, value, _ in generate.macros(content)}
  assert listed.keys() == set(re.findall(r'^([A-Z_]+) =', content, re.M))
  for macro, value in listed.items():
    if value == 'required':
      assert gin_checks.is_required(values[macro])
    elif value[0] not in '%@(':
      assert ast.literal_eval(value) == values[macro]


def test_defaults_are_those_of_the_signatures():
  from calm_jax.decode import model as model_lib
  from calm_jax.early_exit.measures import classifiers
  from calm_jax.training import losses, optimizers

  for item in (
    model_lib.EncoderDecoderModel,
    optimizers.adafactor,
    classifiers.Attention,
    losses.LinearLayerWeights,
  ):
    module = ROOT / (item.__module__.replace('.', '/') + '.py')
    (node,) = [
      x for x in generate.definitions(module) if x.name == item.__name__
    ]
    signature = inspect.signature(item).parameters
    listed = generate.parameters(node)
    assert [name for name, _ in listed] == list(signature)
    for name, default in listed:
      is_required = signature[name].default is inspect.Parameter.empty
      assert (default == 'required') == is_required, name
