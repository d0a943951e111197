"""Metrics of exit classifiers: AUROC, F1, calibration. NumPy and SciPy."""

import numpy as np
from scipy import stats

_BINS = 15


def binary_metrics(
  probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
  """Metrics of one classifier at one layer.

  "Do not exit" is the class that matters, as in CALM's Table of F1: a missed
  one is a wrong token. It is predicted where the probability is below 1/2.

  Args:
    probabilities: [n] of agreement.
    labels: [n] bool, agrees.

  Returns:
    accuracy; precision, recall and F1 of "do not exit" (0 where undefined);
    auroc (NaN where only one class is there); ece, the expected calibration
    error over 15 bins of equal width.
  """
  stays, predicted = ~labels, probabilities < 0.5
  hits = float(np.sum(stays & predicted))
  precision = hits / max(float(np.sum(predicted)), 1.0)
  recall = hits / max(float(np.sum(stays)), 1.0)
  return {
    'accuracy': float(np.mean(predicted == stays)),
    'precision': precision,
    'recall': recall,
    'f1': 2.0 * precision * recall / max(precision + recall, 1e-12),
    'auroc': auroc(probabilities, labels),
    'ece': expected_calibration_error(probabilities, labels),
  }


def auroc(probabilities: np.ndarray, labels: np.ndarray) -> float:
  """P(an agreeing token scores higher than a disagreeing one), ties half."""
  positives, negatives = int(labels.sum()), int((~labels).sum())
  if not positives or not negatives:
    return float('nan')
  ranks = stats.rankdata(probabilities)
  lowest = positives * (positives + 1) / 2
  return float((ranks[labels].sum() - lowest) / (positives * negatives))


def expected_calibration_error(
  probabilities: np.ndarray, labels: np.ndarray
) -> float:
  """Mean over tokens of |mean probability - share of agreement| of their bin
  (Guo et al. 2017)."""
  bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
  gaps = np.bincount(bins, probabilities - labels, minlength=_BINS)
  return float(np.abs(gaps).sum() / len(labels))
