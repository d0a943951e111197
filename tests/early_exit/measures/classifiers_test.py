"""Exit classifiers: sequences against single tokens, and what they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from testing import tiny_t5

from calm_jax import errors
from calm_jax.early_exit.engine import clock, confidence
from calm_jax.early_exit.measures import classifier_confidence, classifiers
from calm_jax.t5 import rows as rows_lib

EMB, LAYERS, LENGTH = 16, 4, 6
ATTENTION = classifiers.Attention(width=8, num_heads=2)


def _params(kind):
  params = classifiers.init_params(kind, jax.random.key(1), EMB, LAYERS)
  return {'params': jax.tree.map(lambda x: x + 0.1, params)}


def _states(seed=0):
  return jax.random.normal(jax.random.key(seed), (2, LENGTH, EMB))


@pytest.mark.parametrize('kind', tiny_t5.CLASSIFIERS, ids=lambda x: x.name)
def test_one_token_at_a_time_equals_the_whole_sequence(kind):
  module, params, states = kind.module(LAYERS), _params(kind), _states()
  for layer in (1, 3):
    whole = module.apply(params, states, layer)
    caches = ()
    if kind.attends:
      caches = module.apply(params, states, layer, method='project_key_value')
    for position in range(LENGTH):
      one = module.apply(
        params,
        states[:, position],
        layer,
        *caches,
        *((jnp.arange(LENGTH)[None] <= position,) if caches else ()),
        method='step',
      )
      np.testing.assert_allclose(one, whole[:, position], atol=1e-5)


@pytest.mark.parametrize('kind', tiny_t5.CLASSIFIERS, ids=lambda x: x.name)
def test_later_positions_are_not_seen(kind):
  module, params, states = kind.module(LAYERS), _params(kind), _states()
  changed = states.at[:, 3:].set(7.0)
  before, after = (module.apply(params, x, 2)[:, :3] for x in (states, changed))
  np.testing.assert_allclose(before, after, atol=1e-6)


def test_attention_depends_on_earlier_positions_and_linear_does_not():
  changed = _states().at[:, 0].set(7.0)
  for kind, depends in ((ATTENTION, True), (classifiers.Linear(), False)):
    module, params = kind.module(LAYERS), _params(kind)
    first, second = (
      module.apply(params, x, 2)[:, -1] for x in (_states(), changed)
    )
    assert (np.abs(first - second).max() > 1e-4) == depends


def test_linear_is_one_unit_on_the_raw_state():
  # CALM: d + 1 parameters, no norm.
  kind = classifiers.Linear()
  params, states = _params(kind), _states()
  output = params['params']['cores_0']['output']
  expected = states @ output['kernel'][:, 0] + output['bias']
  found = kind.module(LAYERS).apply(params, states, 3)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert classifiers.num_parameters(kind, 512, 8) == 513
  # With the norm, the size of the state does not matter.
  kind = classifiers.Linear(norm=True)
  found = [
    kind.module(LAYERS).apply(params, x, 3) for x in (states, 9 * states)
  ]
  np.testing.assert_allclose(*found, atol=1e-4)
  assert classifiers.num_parameters(kind, 512, 8) == 513


def test_attention_projects_once():
  # DL2-CALM projects q, k and v twice with nothing in between: 1,839,618
  # parameters at d = width = 512, where one projection needs half of them.
  kind = classifiers.Attention(
    width=512, residual=False, norm=False, layer_embedding=False
  )
  assert classifiers.num_parameters(kind, 512, 8) == 3 * 512**2 + 513
  shapes = jax.tree.map(jnp.shape, _params(ATTENTION)['params']['cores_0'])
  for name in ('query', 'key', 'value'):
    assert shapes[name] == {'kernel': (EMB, 8)}


@pytest.mark.parametrize('per_layer', [False, True])
@pytest.mark.parametrize('kind', tiny_t5.CLASSIFIERS, ids=lambda x: x.name)
def test_parameters_are_counted_right(kind, per_layer):
  kind = type(kind)(**{**vars(kind), 'per_layer': per_layer})
  params = classifiers.init_params(kind, jax.random.key(0), EMB, LAYERS)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert classifiers.num_parameters(kind, EMB, LAYERS) == count


def test_heads_must_divide_the_width():
  with pytest.raises(errors.ConfigError, match='must divide'):
    classifiers.Attention(width=10, num_heads=4)


def test_a_missing_or_other_classifier_is_refused():
  measure = classifier_confidence.ClassifierConfidence(classifiers.Linear())
  config = tiny_t5.tiny_config(tied=False)
  params = tiny_t5.tiny_params(config)
  measure.check(config, params)
  with pytest.raises(errors.DataError, match='no exit classifier .linear'):
    measure.check(config, {'encoder': {}})
  other = classifier_confidence.ClassifierConfidence(
    classifiers.Linear(per_layer=True)
  )
  with pytest.raises(errors.DataError, match='are not those of'):
    other.check(config, params)


def test_the_confidence_is_the_probability_of_agreement():
  # DL2-CALM thresholds the probability of disagreement.
  kind = classifiers.Linear()
  params = jax.tree.map(jnp.zeros_like, _params(kind)['params'])
  params['cores_0']['output']['bias'] += 4.0  # Surely agrees.
  hidden = jnp.ones((1, EMB))
  view = confidence.LayerView(
    layer=1,
    num_layers=LAYERS,
    exit_number=0,
    hidden=hidden,
    previous_hidden=hidden,
    clock=clock.Clock(jnp.int32(0), jnp.zeros(len(hidden), int)),
    rows=rows_lib.Rows.all(1),
    kept_states=hidden[:, None],
    is_full_model=jnp.zeros(1, bool),
    params={classifiers.PARAMS: {'linear': params}},
    network=None,
    predict=None,
  )
  answer = classifier_confidence.ClassifierConfidence(kind)(view)
  np.testing.assert_allclose(answer.confidence, [1 / (1 + np.exp(-4.0))])
