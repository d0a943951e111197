"""`calm report`: the results' JSON files in, one HTML page and figures out."""

from calm_jax import errors
from calm_jax.cli import flags, settings

DESCRIPTION = """Write one self-contained HTML page and PNG figures.

  calm report --calibration=calibration.json --evaluation=evaluation.json \\
    --output_dir=runs/report

The page is about the first pair of files. Further pairs, by repeating
--calibration and --evaluation in the same order, join it in a table in the
shape of CALM's Table 2. docs/report.md says what each number is."""

_REPEAT = '; repeat it for more results'
SETTINGS = (
  settings.Setting(
    'calibration',
    settings.REQUIRED,
    settings.CALIBRATION.help + _REPEAT,
    macro=settings.CALIBRATION.macro,
    repeats=True,
  ),
  settings.Setting(
    'evaluation',
    settings.REQUIRED,
    'JSON file of calm evaluate' + _REPEAT,
    macro='EVALUATION_FILE',
    repeats=True,
  ),
  settings.Setting(
    'output_dir',
    settings.REQUIRED,
    'folder of the page and the figures',
    macro='REPORT_OUTPUT_DIR',
  ),
  settings.Setting(
    'calibration_dump_dir',
    None,
    'dump that was calibrated on; the page says where it came from',
  ),
  settings.Setting(
    'dump_dir',
    None,
    'dump of the test split, likewise',
    macro='DUMP_OUTPUT_DIR',
  ),
)


def run(args) -> None:
  """Writes the report and prints its path.

  Raises:
    ConfigError: not as many evaluations as calibrations.
    DataError: a file is missing, damaged or of another version, or two do
      not belong together.
  """
  chosen = settings.settle(args, SETTINGS)
  calibrations, evaluations = chosen.calibration, chosen.evaluation
  if len(calibrations) != len(evaluations):
    raise errors.ConfigError(
      'Each calibration needs its evaluation, in the same order, got'
      f' {len(calibrations)} --calibration and {len(evaluations)} --evaluation.'
    )
  from calm_jax.dump import reader
  from calm_jax.records import contracts
  from calm_jax.report import efficiency_table, html, pairs

  results = [
    pairs.Pair(
      contracts.read_json(calibration, contracts.CalibrationResult),
      contracts.read_json(evaluation, contracts.EvaluationResult),
    )
    for calibration, evaluation in zip(calibrations, evaluations, strict=True)
  ]
  dumps = (chosen.calibration_dump_dir, chosen.dump_dir)
  page = html.write_report(
    results[0].calibration,
    results[0].evaluation,
    chosen.output_dir,
    [reader.read_manifest(x) for x in dumps if x is not None],
    results[1:],
    flags.command_line(),
  )
  print(efficiency_table.efficiency_text(results))
  print(f'Written: {page}')
