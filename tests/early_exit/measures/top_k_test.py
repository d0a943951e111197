"""The tokens that stay, and the weight of those that are left out."""

import numpy as np
from scipy import special

from calm_jax.early_exit.measures import top_k


def test_what_several_exits_left_out_is_weighed_at_the_exit_that_did():
  random = np.random.default_rng(0)
  exits = random.normal(size=(3, 2, 9)).astype(np.float32)
  state = top_k.Candidates(None, None, num_exits=0)
  ids = np.tile(np.arange(9), (2, 1))
  left_out = [[], []]
  for number, k in enumerate((5, 4, 2)):
    logits = np.take_along_axis(exits[number], ids, axis=1)
    _, state = top_k.best(logits, state, k)
    for row in range(2):
      order = np.argsort(-logits[row])
      left_out[row] += logits[row][order[k:]].tolist()
      ids_now = np.sort(ids[row][order[:k]])
      assert state.ids[row].tolist() == ids_now.tolist()
    ids = np.asarray(state.ids)
    expected = [special.logsumexp(x) for x in left_out]
    np.testing.assert_allclose(state.log_rest, expected, rtol=1e-5)
  assert state.num_exits == 3
