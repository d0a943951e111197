"""Versions found, required and tested, on a made-up installation."""

import importlib.metadata
import re
import types

import pytest

from calm_jax.cli import main
from calm_jax.doctor import findings, versions

OURS = (
  'jax>=0.7',
  'flax>=0.10',
  'optax',
  'orbax-checkpoint',
  'seqio',
  'tensorflow-datasets',
  'numpy>=1.26',
  'scipy',
  'jax==0.10.2; extra == "tested"',
  'flax==0.12.8; extra == "tested"',
)


@pytest.fixture
def installed(monkeypatch):
  """Versions by name, to be changed."""
  found = dict.fromkeys(versions.PACKAGES, '1.0')
  found |= {'jax': '0.10.2', 'jaxlib': '0.10.2', 'flax': '0.12.8'}
  found |= {'numpy': '2.0', 'calm_jax': '0.1.0'}
  requires = {'calm_jax': OURS, 'jax': ['jaxlib<=0.10.2,>=0.10.1']}

  def version(name):
    if name not in found:
      raise importlib.metadata.PackageNotFoundError(name)
    return found[name]

  fake = types.SimpleNamespace(
    version=version,
    requires=lambda name: requires.get(name),
    PackageNotFoundError=importlib.metadata.PackageNotFoundError,
  )
  monkeypatch.setattr(versions.importlib, 'metadata', fake)
  return found


def by_topic():
  return {finding.topic: finding for finding in versions.look()}


def test_all_is_well(installed):
  found = by_topic()
  assert set(found) == {'python', 'calm_jax', 't5x', *versions.PACKAGES}
  assert not findings.wrong(found.values()) and not versions.unsupported()
  assert found['jax'].found == '0.10.2 (required >=0.7, tested 0.10.2)'
  assert found['t5x'].status == findings.NOTE, 'it is optional'


@pytest.mark.parametrize(
  ('name', 'version', 'status'),
  [
    ('jax', '0.6.2', findings.WRONG),
    ('jax', '0.7.0', findings.NOTE),
    ('jax', '0.10.9', findings.OK),
    ('jax', '0.10.3.dev1', findings.OK),
    ('jaxlib', '0.10.3', findings.WRONG),  # jax requires another one.
    ('flax', '0.8.5', findings.WRONG),
    ('flax', None, findings.WRONG),
    ('tensorflow', None, findings.WRONG),
  ],
)
def test_fault_68_an_unsupported_version(name, version, status, installed):
  installed[name] = version
  if version is None:
    del installed[name]
  finding = by_topic()[name]
  assert finding.status == status
  said = versions.unsupported()
  assert bool(said) == (status == findings.WRONG)
  if said:
    assert f'{name} is {version or "not installed"} (' in said
    assert re.search(rf"pip install '{name}\S*'\. More: calm doctor", said)


def test_fault_68_a_stage_that_fails_over_it_says_so(
  installed, monkeypatch, capsys
):
  from calm_jax.cli import report

  def run(args):
    raise AttributeError("module 'jax' has no attribute 'shard_map'")

  monkeypatch.setattr(report, 'run', run)
  with pytest.raises(AttributeError):  # Our own mistake, if versions fit.
    main.main(['report'])
  installed['jax'] = '0.6.2'
  assert main.main(['report']) == 4
  message = capsys.readouterr().err
  assert message == (
    'calm report: error: These packages do not fit this calm_jax: jax is 0.6.2'
    ' (required >=0.7, tested 0.10.2). Install what was tested: pip install'
    " 'jax==0.10.2'. More: calm doctor.\n"
  )
