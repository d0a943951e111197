"""Choices as data: whole, unchanged by JSON, and known where they ship."""

import dataclasses
import inspect
import json
import pkgutil
import typing

import gin
import jax.numpy as jnp
import numpy as np
import pytest

import calm_jax.decode
import calm_jax.early_exit.engine
import calm_jax.early_exit.measures
from calm_jax import errors
from calm_jax.early_exit.engine import confidence, sampling, schedule
from calm_jax.early_exit.measures import (
  classifier_confidence,
  classifiers,
  never_exit,
  saturation,
  softmax,
  top_k,
)
from calm_jax.evaluation import measure_costs
from calm_jax.records import descriptions, kinds
from calm_jax.t5 import network

# No description has it: exits are listed one by one.
ELSEWHERE = {schedule.ExitLayers}


def _modules(package):
  for found in pkgutil.iter_modules(package.__path__, f'{package.__name__}.'):
    yield __import__(found.name, fromlist=['_'])


def _is_choice(cls):
  """Gin can bind it, or it serves where what gin can bind does."""
  if inspect.isabstract(cls):
    return False
  if issubclass(cls, confidence.ConfidenceMeasure):
    return True
  try:
    return gin.get_configurable(cls) is not None
  except ValueError:
    return False


def shipped():
  """All dataclasses of the rooms of decoding that a user may choose."""
  rooms = (
    calm_jax.early_exit.engine,
    calm_jax.early_exit.measures,
    calm_jax.decode,
  )
  found = {
    cls
    for room in rooms
    for module in _modules(room)
    for cls in vars(module).values()
    if inspect.isclass(cls)
    and cls.__module__.startswith('calm_jax.')
    and dataclasses.is_dataclass(cls)
    and _is_choice(cls)
  }
  return sorted(found - ELSEWHERE, key=lambda cls: cls.__name__)


SHIPPED = shipped()


def example(cls):
  if cls is never_exit.NeverExit:
    return cls(top_k.TopKPropagation(k=(9, 5)))
  return cls()


def through_json(description):
  text = json.dumps(description.to_json(), allow_nan=False)
  return descriptions.Description.from_json(json.loads(text))


def test_every_choice_that_ships_is_known():
  """A new one must be entered in `kinds`; its name is that of one class."""
  networks = {'Transformer'}
  names = [cls.__name__ for cls in SHIPPED]
  assert sorted(names) == sorted(kinds.KINDS.keys() - networks)


@pytest.mark.parametrize('cls', SHIPPED)
def test_every_knob_is_known(cls):
  described = descriptions.describe(example(cls))
  assert described.kind == cls.__name__
  fields = [field.name for field in dataclasses.fields(cls)]
  assert sorted(kinds.KINDS[cls.__name__].knobs) == sorted(fields)
  assert sorted(described.knobs) == sorted(fields)
  assert through_json(described) == described


@pytest.mark.parametrize(
  'cls',
  [cls for cls in SHIPPED if issubclass(cls, confidence.ConfidenceMeasure)],
)
def test_every_measure_has_a_name_and_a_cost(cls):
  described = descriptions.describe(example(cls))
  if cls in (never_exit.NeverExit, confidence.Unmeasured):
    return  # Tools of measurements, which no model leaves by.
  assert measure_costs.cost_of(described) is not None
  assert described.name != described.kind


@pytest.mark.parametrize('kind', ['Linear', 'Mlp', 'Attention'])
def test_every_classifier_has_a_cost(kind):
  measure = classifier_confidence.ClassifierConfidence(
    getattr(classifiers, kind)()
  )
  assert measure_costs.cost_of(descriptions.describe(measure)) is not None


def test_the_sizes_of_a_network_are_known():
  sizes = {field.name for field in dataclasses.fields(network.T5Config)}
  assert kinds.KINDS['Transformer'].knobs.keys() == sizes - {'dropout_rate'}


def changed(value):
  match value:
    case bool():
      return not value
    case int():
      return 2 * value or 1
    case float():
      return value / 2 or 0.5
    case str():
      return value + 'x'
    case None:
      return 2
    case tuple():
      return (*value, 2)
    case classifiers.Linear():
      return classifiers.Mlp()
    case top_k.TopKPropagation():
      return softmax.SoftmaxTopTwoGap()


@pytest.mark.parametrize(
  ('cls', 'name'),
  [(cls, field.name) for cls in SHIPPED for field in dataclasses.fields(cls)],
)
def test_no_knob_is_left_out(cls, name):
  one = example(cls)
  other = dataclasses.replace(one, **{name: changed(getattr(one, name))})
  assert one != other
  assert descriptions.describe(one) != descriptions.describe(other)


@dataclasses.dataclass(frozen=True)
class Mine:
  a: typing.Any


def test_a_choice_of_the_user_has_the_name_of_its_module():
  described = descriptions.describe(Mine(schedule.DecayingThreshold()))
  assert described.kind == f'{__name__}.Mine'
  assert described.knobs['a'].kind == 'DecayingThreshold'
  assert through_json(described) == described
  assert measure_costs.cost_of(described) is None


@pytest.mark.parametrize('make', [np.asarray, jnp.asarray])
def test_of_arrays_the_digest_counts(make):
  def described(values, dtype='float32'):
    return descriptions.describe(Mine([make(np.array(values, dtype))]))

  one = described([[1.0, 2.0]])
  assert one == described([[1.0, 2.0]]) == through_json(one)
  others = (
    described([[1.0, 2.5]]),
    described([[1.0], [2.0]]),
    described([[1.0, 2.0]], 'float16'),
  )
  assert all(one != other for other in others)


def test_numbers_are_compared_by_their_values():
  described = descriptions.describe(sampling.Sampler(temperature=1))
  assert described == descriptions.describe(sampling.Sampler())
  assert json.dumps(described.to_json()) == json.dumps(
    descriptions.describe(sampling.Sampler(temperature=1.0)).to_json()
  )
  quarter = sampling.Sampler(temperature=np.float32(0.25))
  assert descriptions.describe(quarter).knobs['temperature'] == 0.25


def test_names_for_people():
  described = descriptions.describe(
    classifier_confidence.ClassifierConfidence(classifiers.Mlp())
  )
  assert str(described) == (
    "ClassifierConfidence(classifier=Mlp(name='mlp', norm=True,"
    ' per_layer=False, hidden_dim=256))'
  )


@pytest.mark.parametrize(
  'choice',
  [lambda: 0, Mine, Mine(len), Mine({1, 2}), Mine((object(),)), 'text'],
)
def test_what_is_no_data_is_refused(choice):
  with pytest.raises(errors.ConfigError, match='written down as data'):
    descriptions.describe(choice)


def test_a_knob_of_another_type_is_the_configuration_s_fault():
  measure = saturation.HiddenStateSaturation(rescale=1)
  with pytest.raises(errors.ConfigError, match='rescale must be bool, got int'):
    descriptions.describe(measure)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'kind': 'TopKPropagation', 'knobs': {}}, 'must have the knobs'),
    ({'kind': 'Patience', 'knobs': {'k': 1}}, r"the knobs \[\], got {'k': 1}"),
    (
      {'kind': 'HiddenStateSaturation', 'knobs': {'rescale': 1}},
      'HiddenStateSaturation.rescale must be bool, got int',
    ),
    (
      {'kind': 'ClassifierConfidence', 'knobs': {'classifier': 3}},
      r"must have the knobs \['classifier'\], got {'classifier': 3}",
    ),
    (
      {'kind': 'ClassifierConfidence', 'knobs': {'classifier': {'kind': 'a'}}},
      r"must have the knobs \['classifier'\]",
    ),
    ({'kind': 'a', 'knobs': {'b': {'kind': 3, 'knobs': {}}}}, 'kind must be'),
    ({'kind': 'a'}, "missing fields \\['knobs'\\]"),
    ({'kind': 'a', 'knobs': []}, 'knobs must be dict'),
  ],
)
def test_knobs_that_are_not_those_of_the_kind(fields, message):
  with pytest.raises(errors.DataError, match=message):
    descriptions.Description.from_json(fields, 'file.json')
