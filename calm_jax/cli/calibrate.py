"""`calm calibrate`: a dump in, a calibrated threshold as JSON out. No JAX."""

from calm_jax.cli import flags, settings

DESCRIPTION = """Choose the exit threshold whose quality is guaranteed.

  calm calibrate --dump_dir=runs/calibration_dump --output=calibration.json \\
    --tolerance=0.1 --failure_prob=0.05

With probability 1 - failure_prob, the mean loss against the full model on new
text is at most the tolerance. Needs NumPy and SciPy only."""

SETTINGS = (
  settings.Setting(
    'dump_dir',
    'DUMP_OUTPUT_DIR',
    str,
    settings.REQUIRED,
    'dump of the calibration split, as calm dump wrote it',
  ),
  settings.Setting(
    'output',
    'CALIBRATION_FILE',
    str,
    settings.REQUIRED,
    'JSON file to write',
  ),
  settings.Setting(
    'tolerance',
    'TOLERANCE',
    float,
    0.1,
    'greatest mean loss in (0, 1); delta in CALM, alpha in Learn-then-Test',
  ),
  settings.Setting(
    'failure_prob',
    'FAILURE_PROB',
    float,
    0.05,
    'in (0, 1); epsilon in CALM, delta in Learn-then-Test',
  ),
  settings.Setting(
    'consistency',
    'CONSISTENCY',
    str,
    'textual',
    'textual: loss against the full output; risk: against references',
  ),
  settings.Setting(
    'metric',
    'METRIC',
    str,
    None,
    "metric that the loss is made of; without it, the dump's task's",
  ),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds the settings."""
  settings.add_flags(parser, SETTINGS)


def run(args) -> None:
  """Calibrates and prints what was decided.

  Raises:
    CalmError: as `calibration.calibrate_dump`.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax import calibration, contracts

  result = calibration.calibrate_dump(
    chosen.dump_dir,
    chosen.consistency,
    chosen.tolerance,
    chosen.failure_prob,
    chosen.metric,
  )
  contracts.write_json_atomically(chosen.output, result)
  print(summary(result))
  print(f'Written: {chosen.output}')


def summary(result) -> str:
  """What a person wants to know of a `CalibrationResult`, in a few lines."""
  lines = [
    f'threshold     {result.threshold:g}',
    f'tolerance     {result.tolerance:g} ({result.consistency}'
    f' consistency of {result.metric}; delta in CALM, alpha in LTT)',
    f'failure_prob  {result.failure_prob:g} (epsilon in CALM, delta in LTT)',
    f'examples      {result.num_examples}',
    result.reason,
  ]
  if result.warning:
    lines.append(f'Warning: {result.warning}')
  return '\n'.join(lines)
