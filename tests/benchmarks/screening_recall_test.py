"""What a preview finds, counted once more token by token."""

import numpy as np
import scipy.special
from testing import plain_measures, tiny_t5

from benchmarks import screening_recall
from calm_jax.early_exit.measures import screening

K = 3


def test_counts_equal_a_plain_loop():
  measure = screening.ScreenedTopK(k=K, rank=9, num_candidates=6)
  model, params = tiny_t5.tiny_model(measure, tied=True)
  width = model.config.emb_dim
  hidden = np.random.default_rng(0).normal(size=(40, width)).astype(np.float32)
  low, full = screening_recall.recalls(
    model.config, params, hidden, ranks=(9, width), nums_candidates=(6,), k=K
  )
  best, k_best, errors, certified = [], [], [], []
  logits = np.float64(
    model.module.apply({'params': params}, hidden, method='logits_from_hidden')
  )
  kernel = np.float64(params['token_embedder']['embedding']).T
  left, _, _ = np.linalg.svd(kernel, full_matrices=False)
  lost = left[:, 9:] @ left[:, 9:].T
  scale = np.float64(params['decoder']['decoder_norm']['scale'])
  for state, exact in zip(np.float64(hidden), logits, strict=True):
    scores, candidates = plain_measures.screen(measure, state, params)
    order = np.argsort(-exact)
    best.append(order[0] in candidates)
    k_best.append(len(set(order[:K]) & set(candidates)) / K)
    scores[candidates] = exact[candidates]
    gap = np.diff(np.sort(scipy.special.softmax(scores)[candidates])[-2:])
    errors.append(
      abs(gap - np.diff(np.sort(scipy.special.softmax(exact))[-2:]))
    )
    # Cauchy-Schwarz on the part of state and columns that was left out.
    normed = state / np.sqrt(np.mean(state**2) + 1e-6) * scale
    missed = normed @ lost @ kernel / np.sqrt(width)
    bounds = (
      exact
      - missed
      + np.linalg.norm(normed @ lost)
      * np.linalg.norm(lost @ kernel, axis=0)
      / np.sqrt(width)
    )
    others = np.delete(bounds, candidates)
    certified.append(exact[candidates].max() >= others.max())
  assert 0 < np.mean(best) < 1, 'the test needs misses'
  assert 0 < np.mean(certified) < 1, 'the test needs certified states'
  assert not np.any(np.array(certified) & ~np.array(best))
  expected = [np.mean(x) for x in (best, k_best, errors, certified)]
  found = [low.best, low.k_best, low.confidence_error, low.certified]
  np.testing.assert_allclose(found, expected, atol=1e-5)
  # Nothing is left out: all is found, exactly and for sure.
  assert (full.best, full.k_best, full.certified) == (1.0, 1.0, 1.0)
  assert full.confidence_error < 1e-5
