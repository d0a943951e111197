"""`calm calibrate`: a dump in, a calibrated threshold as JSON out. No JAX."""

from calm_jax.cli import settings

DESCRIPTION = """Choose the exit threshold whose quality is guaranteed.

  calm calibrate --dump_dir=runs/calibration_dump --output=calibration.json \\
    --tolerance=0.1 --failure_prob=0.05

With a probability of at least 1 - failure_prob over the calibration texts, the
expected loss of a new text against the full model is at most the tolerance.
Needs NumPy and SciPy only.

p-values: star_bets (the default), binomial (the default for losses of 0 or 1),
betting, hoeffding_bentkus (the paper's, also called calm), and for comparison
hoeffding, chernoff_hoeffding, bentkus, empirical_bernstein and
rescaled_hoeffding_bentkus, rescaled_empirical_bernstein (risk_difference).

Procedures: fixed_sequence (CALM's), multi_start_fixed_sequence, bonferroni,
holm; and conformal_risk_control, whose guarantee is weaker: on average over
calibrations only. docs/calibration.md says which when."""

P_VALUE = settings.Setting(
  'p_value',
  None,
  'test of the expected loss; without it star_bets, or binomial for losses of'
  " 0 or 1; the paper's is hoeffding_bentkus",
  objects=True,
)
PROCEDURE = settings.Setting(
  'procedure',
  'fixed_sequence',
  'how many thresholds share one failure probability',
  objects=True,
)
SETTINGS = (
  settings.Setting(
    'dump_dir',
    settings.REQUIRED,
    'dump of the calibration split, as calm dump wrote it',
    macro='DUMP_OUTPUT_DIR',
  ),
  settings.Setting(
    'output', settings.REQUIRED, 'JSON file to write', macro='CALIBRATION_FILE'
  ),
  settings.Setting(
    'tolerance',
    0.1,
    'greatest expected loss, in (0, 1); delta in CALM, alpha in'
    ' Learn-then-Test',
  ),
  settings.Setting(
    'failure_prob', 0.05, 'in (0, 1); epsilon in CALM, delta in Learn-then-Test'
  ),
  settings.Setting(
    'consistency',
    'textual',
    'textual: loss against the full output; risk: against references, each'
    ' example clipped at 0; risk_difference: the same, rewarding improvements',
  ),
  settings.Setting(
    'metric',
    None,
    'metric that the loss is made of: a name, or package.module:function of'
    " your own; without it, the dump's task's",
  ),
  P_VALUE,
  PROCEDURE,
)


def run(args) -> None:
  """Calibrates and prints what was decided.

  Raises:
    CalmError: as `calibration.calibrate_dump`.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax import calibration
  from calm_jax.records import contracts

  result = calibration.calibrate_dump(
    chosen.dump_dir,
    chosen.consistency,
    chosen.tolerance,
    chosen.failure_prob,
    chosen.metric,
    chosen.p_value,
    chosen.procedure,
  )
  contracts.write_json_atomically(chosen.output, result)
  print(summary(result))
  print(f'Written: {chosen.output}')


def summary(result) -> str:
  """What a person wants to know of a `CalibrationResult`, in a few lines."""
  from calm_jax.records import contracts

  failure = f'{result.failure_prob:g} (epsilon in CALM, delta in LTT)'
  if result.guarantee == contracts.IN_EXPECTATION:
    failure = 'none: the guarantee is on average over calibrations only'
  lines = [
    f'threshold     {result.threshold:g}',
    f'tolerance     {result.tolerance:g} ({result.consistency}'
    f' consistency of {result.metric}; delta in CALM, alpha in LTT)',
    f'failure_prob  {failure}',
    f'p-value       {result.p_value}',
    f'procedure     {result.procedure}',
    f'examples      {result.num_examples}',
    result.reason,
  ]
  if result.threshold == 1.0:
    lines.insert(0, 'NO EARLY EXIT IS CERTIFIED: the full model is kept.')
  if result.warning:
    lines.append(f'Warning: {result.warning}')
  return '\n'.join(lines)
