"""The report: a page, its figures, and the final table for a terminal.

    CalibrationResult, EvaluationResult -> write_report, summary_table

No JAX; matplotlib and Jinja only.
"""

from calm_jax.report.html import write_report as write_report
from calm_jax.report.table import summary_table as summary_table
