"""Python files of the corpus: the standard library and calm_jax's dependencies.

Only what calm_jax itself needs counts, not every package that happens to lie
in the environment: installing a linter must not change the training data.
"""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence

# Tests of other people say little in their docstrings, distributions of Python
# differ in whether they ship them, and some hold broken files on purpose.
_SKIPPED_FOLDERS = frozenset(
  {'__pycache__', 'site-packages', 'dist-packages', 'test', 'tests', 'testdata'}
)
_REQUIREMENT_NAME = re.compile(r'[A-Za-z0-9._-]+')


@functools.cache
def packages() -> Mapping[str, str]:
  """Name -> version of Python and of calm_jax's installed dependencies.

  Follows the requirements of requirements, without the optional extras. Where
  calm_jax is used without being installed, every installed package counts.
  """
  versions = {
    _normalized(distribution.metadata['Name']): distribution
    for distribution in importlib.metadata.distributions()
    if distribution.metadata['Name']
  }
  found: dict[str, str] = {}
  pending = ['calm-jax'] if 'calm-jax' in versions else list(versions)
  while pending:
    name = pending.pop()
    if name in found or name not in versions:
      continue
    found[name] = versions[name].version
    for requirement in versions[name].requires or ():
      if 'extra ==' not in requirement:
        match = _REQUIREMENT_NAME.match(requirement)
        pending.append(_normalized(match.group()))
  found.pop('calm-jax', None)
  return {'python': platform.python_version()} | dict(sorted(found.items()))


def files() -> list[pathlib.Path]:
  """Python files of the standard library, then of each dependency, sorted."""
  found = walk([pathlib.Path(sysconfig.get_paths()['stdlib'])])
  for name in packages():
    if name != 'python':
      found.extend(_files_of(name))
  return list(dict.fromkeys(found))


def packages_in(folder: pathlib.Path) -> Mapping[str, str]:
  """Name -> version of what `pip install --target folder` put there."""
  return {
    _normalized(distribution.metadata['Name']): distribution.version
    for distribution in importlib.metadata.distributions(path=[str(folder)])
  }


def walk(roots: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Python files below `roots`, those of each root sorted by path."""
  return [
    path
    for root in roots
    for path in sorted(_walk(root), key=pathlib.Path.as_posix)
  ]


def _walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
  for folder, subfolders, names in os.walk(root):
    # In place: os.walk then leaves these folders out.
    subfolders[:] = [x for x in subfolders if x not in _SKIPPED_FOLDERS]
    for name in names:
      if name.endswith('.py'):
        yield pathlib.Path(folder, name)


def _files_of(name: str) -> list[pathlib.Path]:
  distribution = importlib.metadata.distribution(name)
  inside = [
    file
    for file in distribution.files or ()
    if file.suffix == '.py'
    and '..' not in file.parts
    and not _SKIPPED_FOLDERS.intersection(file.parts)
  ]
  return [
    pathlib.Path(distribution.locate_file(file))
    for file in sorted(inside, key=lambda x: x.as_posix())
  ]


def _normalized(name: str) -> str:
  return re.sub(r'[-_.]+', '-', name).lower()
