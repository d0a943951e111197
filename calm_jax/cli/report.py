"""`calm report`: the results' JSON files in, one HTML page and figures out."""

from calm_jax.cli import flags, settings

DESCRIPTION = """Write one self-contained HTML page and PNG figures.

  calm report --calibration=calibration.json --evaluation=evaluation.json \\
    --output_dir=runs/report"""

SETTINGS = (
  settings.CALIBRATION,
  settings.Setting(
    'evaluation',
    'EVALUATION_FILE',
    str,
    settings.REQUIRED,
    'JSON file of calm evaluate',
  ),
  settings.Setting(
    'output_dir',
    'REPORT_OUTPUT_DIR',
    str,
    settings.REQUIRED,
    'folder of the page and the figures',
  ),
  settings.Setting(
    'calibration_dump_dir',
    'CALIBRATION_DUMP_DIR',
    str,
    None,
    'dump that was calibrated on; the page says where it came from',
  ),
  settings.Setting(
    'dump_dir', 'DUMP_OUTPUT_DIR', str, None, 'dump of the test split, likewise'
  ),
)


def add_flags(parser: flags.Parser) -> None:
  """Adds the settings."""
  settings.add_flags(parser, SETTINGS)


def run(args) -> None:
  """Writes the report and prints its path.

  Raises:
    DataError: a file is missing, damaged or of another version, or the two do
      not belong together.
  """
  chosen = settings.settle(args, SETTINGS)
  from calm_jax import contracts
  from calm_jax.dump import reader
  from calm_jax.report import html

  dumps = (chosen.calibration_dump_dir, chosen.dump_dir)
  manifests = [reader.read_manifest(x) for x in dumps if x is not None]
  page = html.write_report(
    contracts.read_json(chosen.calibration, contracts.CalibrationResult),
    contracts.read_json(chosen.evaluation, contracts.EvaluationResult),
    chosen.output_dir,
    manifests,
  )
  print(f'Written: {page}')
