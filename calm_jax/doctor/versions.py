"""Versions found, against those required and those tested.

What is required stands in the packages' own metadata (setup.py), what was
tested in constraints.txt: of a checkout the file, of an installed wheel the
`tested` extra that setup.py makes of it. Imports none of the packages.
"""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterator

from packaging import requirements, specifiers, utils, version

from calm_jax.doctor import findings

PACKAGES = (
  *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'seqio'),
  *('tensorflow-datasets', 'tensorflow', 'numpy', 'scipy'),
)
_US = 'calm_jax'
_INSTALL = 'pip install '


@dataclasses.dataclass(frozen=True)
class Package:
  """A package as it is installed.

  Attributes:
    name: of the distribution.
    found: its version; None if it is not installed.
    required: what we and the other packages accept.
    tested: the version that our tests were run with; None if unknown.
  """

  name: str
  found: str | None
  required: specifiers.SpecifierSet
  tested: str | None

  @property
  def is_supported(self) -> bool:
    return self.found is not None and self.required.contains(
      self.found, prereleases=True
    )

  @property
  def expected(self) -> str:
    """For example 'required >=0.7, tested 0.10.2'."""
    parts = [f'required {_shortest(self.required)}'] if self.required else []
    return ', '.join([*parts, f'tested {self.tested or "never"}'])

  @property
  def install(self) -> str:
    wanted = f'=={self.tested}' if self.tested else str(self.required)
    return f"{_INSTALL}'{self.name}{wanted}'"


def packages() -> list[Package]:
  """All of `PACKAGES`."""
  required, tested = _required(), _tested()
  return [
    Package(name, _found(name), required[name], tested.get(name))
    for name in PACKAGES
  ]


def look() -> Iterator[findings.Finding]:
  """Python, calm_jax, the packages, and T5X, which is optional."""
  yield findings.Finding('python', findings.OK, platform.python_version())
  yield findings.Finding(_US, findings.OK, _found(_US) or 'not installed')
  yield from map(_finding, packages())
  t5x = _found('t5x')
  yield findings.Finding(
    't5x',
    findings.OK if t5x else findings.NOTE,
    t5x or 'not installed; only gin/t5x needs it',
    '' if t5x else "pip install 'calm_jax[t5x]'",
  )


def unsupported() -> str:
  """What to say where packages cannot work; '' where all can."""
  bad = [x for x in packages() if not x.is_supported]
  if not bad:
    return ''
  found = '; '.join(
    f'{x.name} is {x.found or "not installed"} ({x.expected})' for x in bad
  )
  fix = ' '.join(x.install.removeprefix(_INSTALL) for x in bad)
  return (
    f'These packages do not fit this calm_jax: {found}. Install what was'
    f' tested: {_INSTALL}{fix}. More: calm doctor.'
  )


def _finding(package: Package) -> findings.Finding:
  said = f'{package.found or "not installed"} ({package.expected})'
  if not package.is_supported:
    return findings.Finding(package.name, findings.WRONG, said, package.install)
  found, tested = package.found, package.tested
  if found and tested and _series(found) != _series(tested):
    return findings.Finding(
      package.name,
      findings.NOTE,
      said,
      f'If something fails: {package.install}',
    )
  return findings.Finding(package.name, findings.OK, said)


def _shortest(required: specifiers.SpecifierSet) -> str:
  """The same without the lower bounds that another one implies."""
  lower = [x for x in required if x.operator == '>=']
  lower.sort(key=lambda x: version.Version(x.version))
  others = [x for x in required if x.operator != '>=']
  return ','.join(map(str, [*lower[-1:], *others]))


def _series(text: str) -> tuple[int, ...]:
  """Major and minor version: what may change an interface."""
  return version.Version(text).release[:2]


def _found(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _requires(name: str) -> list[requirements.Requirement]:
  try:
    texts = importlib.metadata.requires(name) or []
  except importlib.metadata.PackageNotFoundError:
    return []
  return [requirements.Requirement(text) for text in texts]


def _required() -> dict[str, specifiers.SpecifierSet]:
  """What calm_jax and the packages require of the packages."""
  required = dict.fromkeys(PACKAGES, specifiers.SpecifierSet())
  for name in (_US, *PACKAGES):
    for requirement in _requires(name):
      other = utils.canonicalize_name(requirement.name)
      marker = requirement.marker
      if other in required and (not marker or marker.evaluate({'extra': ''})):
        required[other] &= requirement.specifier
  return required


def _tested() -> dict[str, str]:
  """Exact versions by name: the `tested` extra that setup.py makes."""
  return {
    utils.canonicalize_name(x.name): str(x.specifier).removeprefix('==')
    for x in _requires(_US)
    if x.marker
    and x.marker.evaluate({'extra': 'tested'})
    and not x.marker.evaluate({'extra': ''})
  }
