"""Gin files of earlier versions: runs go on, and errors say the new names."""

import importlib.util
import inspect
import pathlib
import pkgutil

import gin
import pytest

from calm_jax import errors
from calm_jax.config import gin_setup, moved_names, saved_config

# What gin.config_str gave for FILES when models, optimizers and partitioning
# stood at the top of the package and confidence held all measures.
SAVED = pathlib.Path(__file__).parents[1] / 'testdata/config_before_rooms.gin'
FILES = (
  'gin/experiments/tiny.gin',
  'gin/early_exit/decaying.gin',
  'gin/early_exit/oracle.gin',
  'gin/early_exit/exits.gin',
  'gin/early_exit/t5x_release.gin',
)
BEFORE = """
from __gin__ import dynamic_registration
from calm_jax import models
from calm_jax.early_exit import confidence
models.EncoderDecoderModel.measure = @confidence.Patience()
"""


def parts_behind_the_module(name):
  """What a name of the table means, for example ['Patience']."""
  parts = f'calm_jax.{name}'.split('.')
  found = pkgutil.resolve_name('calm_jax')
  behind = []
  for part in parts[1:]:
    if inspect.ismodule(found):
      module = f'{found.__name__}.{part}'
      if hasattr(found, '__path__') and importlib.util.find_spec(module):
        found = importlib.import_module(module)
        continue
      found = getattr(found, part)
    else:
      assert part in inspect.signature(found).parameters, name
    behind.append(part)
  return behind


@pytest.mark.parametrize(('before', 'now'), moved_names.MOVED.items())
def test_what_is_named_is_there(before, now):
  num_behind = len(parts_behind_the_module(now))
  module = before.rsplit('.', num_behind)[0] if num_behind else before
  assert module in moved_names.MOVED, 'Both end in as many parts.'
  with pytest.raises((ImportError, AttributeError, AssertionError)):
    parts_behind_the_module(before)


def test_a_run_begun_before_goes_on():
  gin_setup.parse(FILES, ["MODEL_DIR = 'runs'"])
  saved = SAVED.read_text()
  now = saved_config.bindings(gin.config_str())
  assert saved_config.bindings(saved).items() - now.items()
  renamed = saved_config.bindings(moved_names.renamed(saved))
  assert renamed.items() - now.items() == set()
  assert len(renamed) > 80


def test_another_choice_is_still_another():
  saved = SAVED.read_text()
  gin_setup.parse(FILES, ["MODEL_DIR = 'runs'"])
  other = saved.replace('@oracle.Oracle()', '@confidence.Patience()')
  [line] = (
    line
    for line in saved_config.differences(other, gin.config_str())
    # Settings that came later are none of the old names.
    if 'was not set and is now' not in line
  )
  assert line.endswith('was @patience.Patience() and is now @oracle.Oracle()')


def test_names_of_this_version_stay():
  gin_setup.parse(FILES, ["MODEL_DIR = 'runs'"])
  text = gin.config_str()
  assert moved_names.renamed(text) == text
  assert moved_names.moved_in(text) == {}


@pytest.mark.parametrize('includes', [False, True])
def test_a_file_of_before_is_told_every_new_name(
  includes, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'before.gin').write_text(BEFORE)
  if includes:
    (tmp_path / 'after.gin').write_text("include 'before.gin'\n")
  with pytest.raises(errors.ConfigError) as raised:
    gin_setup.parse(['after.gin' if includes else 'before.gin'], [])
  first, *lines = str(raised.value).splitlines()
  assert first.endswith('before.gin must use the names of this version:')
  assert lines == [
    '  calm_jax.early_exit.confidence.Patience is now'
    ' calm_jax.early_exit.measures.patience.Patience',
    f'  calm_jax.models is now calm_jax.{moved_names.MOVED["models"]}',
  ]


def test_gin_names_modules_in_several_ways():
  text = (
    'import calm_jax.early_exit.top_k\n'
    'from calm_jax import losses as my_losses\n'
    'from mine import models\n'
    'calm_jax.early_exit.top_k.TopKPropagation.k = 3\n'
    'a/models.Mine.weights = [@my_losses.LinearLayerWeights(),\n'
    "    @b/my_losses.f, 'models.Mine']\n"
  )
  assert moved_names.renamed(text).splitlines()[3:] == [
    'calm_jax.early_exit.measures.top_k.TopKPropagation.k = 3',
    'a/models.Mine.weights = [@losses.LinearLayerWeights(),',
    "    @b/losses.f, 'models.Mine']",
  ]
  assert moved_names.moved_in(text) == {
    'calm_jax.early_exit.top_k': 'calm_jax.early_exit.measures.top_k',
    'calm_jax.losses': 'calm_jax.training.losses',
  }
