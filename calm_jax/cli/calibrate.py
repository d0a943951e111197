"""`calm calibrate`: a dump in, a calibrated threshold as JSON out. No JAX."""

import pathlib

from calm_jax import errors
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
    'dump of the calibration split, as calm dump wrote it; several of the same'
    ' texts, such as one for each measure, to choose among them too',
    macro='DUMP_OUTPUT_DIR',
    repeats=True,
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
    ' example clipped at 0; risk_difference: the same, rewarding improvements;'
    " 'textual>0.2': the share of texts that lose more than 0.2",
  ),
  settings.Setting(
    'metric',
    None,
    'metric that the loss is made of: a name, or package.module:function of'
    " your own; without it, the dump's task's",
  ),
  P_VALUE,
  PROCEDURE,
  settings.Setting(
    'tolerances',
    None,
    'instead of --tolerance: several, joined by commas, whose promises hold'
    ' together; a file for each is written next to --output',
  ),
  settings.Setting(
    'groups',
    None,
    'JSON object from example id to group, known from the input alone: a'
    ' threshold for each, whose promises hold together, in files likewise',
    macro='CALIBRATION_GROUPS_FILE',
  ),
)


def run(args) -> None:
  """Calibrates and prints what was decided.

  Raises:
    CalmError: as `calibration.calibrate_dump`.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax import calibration
  from calm_jax.records import contracts

  results = _results(chosen, calibration)
  for name, result in results.items():
    path = pathlib.Path(chosen.output)
    if name:
      path = path.with_name(f'{path.stem}.{_in_file(name)}{path.suffix}')
    contracts.write_json_atomically(path, result)
    print(summary(result))
    print(f'Written: {path}')


def _results(chosen, calibration) -> dict:
  """Results by what they are of; '' if there is but one."""
  several = {
    name: getattr(chosen, name)
    for name in ('tolerances', 'groups')
    if getattr(chosen, name) is not None
  }
  if len(chosen.dump_dir) > 1:
    several['dump_dir'] = chosen.dump_dir
  if len(several) > 1:
    raise errors.ConfigError(
      'One guarantee is shared by several dumps, tolerances or groups, not by'
      f' more than one of them, got --{" and --".join(several)}.'
    )
  dump = chosen.dump_dir[0]
  made = {'metric': chosen.metric, 'p_value': chosen.p_value}
  wanted = chosen.consistency, chosen.tolerance, chosen.failure_prob
  if 'dump_dir' in several:
    if chosen.procedure != PROCEDURE.default:
      raise errors.ConfigError(
        'Several dumps are chosen among by Pareto testing; leave out'
        f' --procedure, got {chosen.procedure!r}.'
      )
    return {'': calibration.choose_dump(chosen.dump_dir, *wanted, **made)}
  made['procedure'] = chosen.procedure
  if 'tolerances' in several:
    tolerances = numbers('tolerances', chosen.tolerances, float)
    return calibration.calibrate_dump_curve(
      dump, chosen.consistency, tolerances, chosen.failure_prob, **made
    )
  if 'groups' in several:
    groups = read_groups(chosen.groups)
    return calibration.calibrate_dump_groups(dump, groups, *wanted, **made)
  return {'': calibration.calibrate_dump(dump, *wanted, **made)}


def _in_file(name: str) -> str:
  """The name of a group, which may be anything, as a part of a file's."""
  return ''.join(x if x.isalnum() or x in '-_.' else '_' for x in name)


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


def read_groups(path: str) -> dict[str, str]:
  """Reads which group each example is of.

  Raises:
    DataError: the file holds something else.
  """
  from calm_jax.records import contracts

  group_of = contracts.read_json(path)
  if not isinstance(group_of, dict) or not all(
    isinstance(x, str) for x in group_of.values()
  ):
    raise errors.DataError(
      f'{path} must be a JSON object from example ids to names of groups, as'
      ' {"id1": "numpy", "id2": "scipy"}.'
    )
  return group_of


def numbers(name: str, text: str, kind: type) -> tuple:
  """Reads numbers joined by commas; ConfigError if they are none."""
  try:
    return tuple(kind(x) for x in text.split(','))
  except ValueError as error:
    raise errors.ConfigError(
      f'{name} must be numbers joined by commas, got {text!r}.'
    ) from error
