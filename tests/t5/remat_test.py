"""Policies of rematerialization change memory and nothing else."""

import math

import jax
import numpy as np
import pytest
from testing import copying

from calm_jax import errors
from calm_jax.t5 import network, remat
from calm_jax.training import optimizers, state, step

BATCH = copying.CopyingBatches().batch_at(3)
CONFIG = copying.copying_model(dropout_rate=0.3).module.config


def of_policy(policy):
  """The loss as a function of the parameters, and the initial variables."""
  module = network.Transformer(CONFIG, policy)

  def loss_fn(params):
    return step.compute_losses(
      module, step.LayerWeightedObjective(), params, BATCH, jax.random.key(1)
    ).loss

  return module, loss_fn


def residual_bytes(loss_fn, params):
  """What is kept between the passes, the parameters included."""
  vjp = jax.eval_shape(lambda params: jax.vjp(loss_fn, params)[1], params)
  return sum(
    math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(vjp)
  )


@pytest.fixture(scope='module')
def plain():
  """Parameters, gradient and residual bytes without rematerialization."""
  module, loss_fn = of_policy(remat.NONE)
  params = state.create(
    module, optimizers.adafactor(), jax.random.key(0), BATCH
  ).params
  found = jax.jit(jax.value_and_grad(loss_fn))(params)
  return params, found, residual_bytes(loss_fn, params)


@pytest.mark.parametrize('policy, saving', [('minimal', 2), ('full', 5)])
def test_a_policy_gives_the_same_gradient_from_less(policy, saving, plain):
  params, (loss, gradient), before = plain
  _, loss_fn = of_policy(policy)
  actual_loss, actual = jax.jit(jax.value_and_grad(loss_fn))(params)
  # With dropout: its masks are drawn alike.
  assert float(actual_loss) == float(loss)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), actual, gradient
  )
  assert residual_bytes(loss_fn, params) * saving < before


def test_the_parameters_and_their_axes_keep_their_names():
  tokens = np.ones((1, 2), np.int32)

  def variables(policy):
    module, _ = of_policy(policy)
    return jax.eval_shape(
      lambda key: module.init(
        key, tokens, tokens, tokens, enable_dropout=False
      ),
      jax.random.key(0),
    )

  assert variables('full') == variables(remat.NONE)


def test_an_unknown_policy_names_the_nearest():
  module, loss_fn = of_policy('ful')
  with pytest.raises(errors.ConfigError, match="Did you mean 'full'"):
    jax.eval_shape(
      lambda: module.init(jax.random.key(0), *[np.ones((1, 2), np.int32)] * 3)
    )
