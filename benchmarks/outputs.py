"""The report of `benchmarks.decode` as tables and as a figure."""

import itertools
from typing import Any

import matplotlib
from matplotlib import ticker

from benchmarks import systems
from calm_jax.display import colors
from calm_jax.report import figures

_HEIGHT = 2.9  # inches per row of panels
# Color-blind safe (Okabe and Ito 2008), with a marker each.
_LOOKS = {
  'none': ('#000000', 'o'),
  'softmax': ('#d55e00', 's'),
  'top_k_16': ('#56b4e9', 'v'),
  'top_k_64': ('#0072b2', 'D'),
  'top_k_256': ('#5f6b7a', '^'),
  'screened': ('#cc79a7', 'P'),
  'screened_wide': ('#7a3b63', 'P'),
  'saturation': ('#e69f00', 'X'),
  'linear': ('#009e73', '<'),
  'attention': ('#8a6d3b', '>'),
}
_DASHES = ('--', '-.', ':', (0, (6, 1, 1, 1, 1, 1)))


def markdown(report: dict[str, Any]) -> str:
  """All rows, a table per model and batch size."""
  lines = [
    f'{report["machine"]}; {report["settings"]["threads"]} threads;'
    f' {report["device"]}; '
    + ', '.join(f'{k} {v}' for k, v in report['versions'].items()),
    '',
    'Reading memory: {best_gb_per_second:.1f} GB/s at best,'
    ' {median_gb_per_second:.1f} in the median.'.format(
      **report['read_bandwidth']
    ),
  ]
  for name, reason in report['left_out'].items():
    lines += ['', f'Left out: {name} ({reason}).']
  lines += ['', *_cost_model_lines(report['cost_model'])]
  for (model, batch), rows in _groups(report).items():
    lines += ['', f'## {model}, batch size {batch}', '']
    lines += _table(rows)
    lines += ['', *_source_lines(report, model, batch)]
  return '\n'.join(lines) + '\n'


def _groups(report) -> dict[tuple[str, int], list[dict]]:
  key = lambda row: (row['model'], row['batch'])  # noqa: E731
  return {k: list(rows) for k, rows in itertools.groupby(report['rows'], key)}


def _table(rows) -> list[str]:
  full = next((x for x in rows if x['system'] == 'full model'), rows[0])
  head = (
    'system',
    'layers',
    'ms/token',
    'quartiles',
    '/ full',
    'MB/token',
    'roofline ms',
    'of roofline',
    'predicted ms',
    'same tokens',
    'prepare s',
  )
  lines = [f'| {" | ".join(head)} |', '|---|' + '---:|' * (len(head) - 1)]
  for row in rows:
    predicted, same = row.get('predicted_ms'), row['same_tokens']
    cells = (
      row['system'],
      f'{row["mean_layers"]:.2f}',
      f'{row["ms_per_token"]:.2f}',
      '{:.2f} to {:.2f}'.format(*row['quartiles']),
      f'{row["ms_per_token"] / full["ms_per_token"]:.2f}',
      f'{row["mb_per_token"]:.1f}',
      f'{row["roofline_ms"]:.2f}',
      f'{row["of_roofline"]:.0%}',
      '' if predicted is None else f'{predicted:.2f}',
      '' if same is None else f'{same:.1%}',
      f'{row["prepare_seconds"]:.1f}',
    )
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def _source_lines(report, model, batch) -> list[str]:
  (found,) = (
    x for x in report['sources'] if (x['model'], x['batch']) == (model, batch)
  )
  words = []
  for process, times in found['processes'].items():
    text = f'{process} {times["source_ms"]:.0f} ms'
    if times['encoder_ms'] is not None:
      text += f' (encoder alone {times["encoder_ms"]:.0f})'
    words.append(text)
  return ['Once per batch, encoder and source projections: ' + ', '.join(words)]


def _cost_model_lines(fitted) -> list[str]:
  if fitted is None:
    return []
  words = {'fitted': 'fitted', 'held_out': 'held out (mixed layers)'}
  return [
    'Cost model, relative error: '
    + '; '.join(
      f'{words[kind]} rows {x["median"]:.0%} in the median, {x["largest"]:.0%}'
      f' at most, of {x["rows"]}'
      for kind, x in fitted['relative_errors'].items()
    )
  ]


def figure(report: dict[str, Any]) -> bytes:
  """PNG: a panel per model and batch size, and predicted against measured."""
  groups = _groups(report)
  num_panels = len(groups) + 1
  num_columns = 2 if num_panels > 1 else 1
  num_rows = -(-num_panels // num_columns)

  def plot(canvas):
    panels = canvas.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, (name, rows) in zip(panels, groups.items(), strict=False):
      _plot_times(axes, name, rows)
    _plot_predictions(panels[len(groups)], report['rows'])
    for axes in panels[num_panels:]:
      axes.set_axis_off()
    handles = {}
    for axes in panels[: len(groups)]:
      found, labels = axes.get_legend_handles_labels()
      handles |= dict(zip(labels, found, strict=True))
    canvas.legend(
      handles.values(), handles.keys(), loc='outside lower center', ncols=3
    )

  with matplotlib.rc_context({'legend.fontsize': 7.5, 'legend.frameon': False}):
    return figures.render(plot, _HEIGHT * num_rows + 1.0)


def _plot_times(axes, name, rows) -> None:
  """Milliseconds by the layer where tokens leave; others across."""
  model, batch = name
  num_layers = max(row['exit'] for row in rows)
  ours = [row for row in rows if row['process'] == systems.CALM]
  for measure in dict.fromkeys(row['measure'] for row in ours):
    color, marker = _LOOKS.get(measure, (colors.MUTED, '*'))
    points = sorted(
      (row['exit'], row['ms_per_token'], row['roofline_ms'])
      for row in ours
      if row['measure'] == measure and row['exit'] != systems.MIXED
    )
    layers, times, floors = zip(*points, strict=True)
    axes.plot(
      layers,
      times,
      marker=marker,
      color=color,
      markersize=4,
      linewidth=1.2,
      label=systems.label(measure),
    )
    if measure == 'none':
      axes.fill_between(
        layers, floors, color=colors.GRID, label='must be read', zorder=0
      )
  peers = [row for row in rows if row['process'] != systems.CALM]
  for row, dashes in zip(peers, itertools.cycle(_DASHES), strict=False):
    axes.axhline(
      row['ms_per_token'],
      color=colors.MUTED,
      linestyle=dashes,
      linewidth=1,
      label=row['process'],
    )
  axes.set_title(f'{model}, batch {batch}')
  axes.set_xlabel('layer where tokens leave')
  axes.set_ylabel('ms per token')
  axes.set_xticks(range(1, num_layers + 1))
  fastest_peer = min((row['ms_per_token'] for row in peers), default=0)
  top = 1.1 * max([fastest_peer, *(row['ms_per_token'] for row in ours)])
  axes.set_ylim(0, top)
  _name_what_is_above(axes, peers, top)


def _name_what_is_above(axes, peers, top) -> None:
  """Names the peers that take longer than the panel is high."""
  above = [row for row in peers if row['ms_per_token'] > top]
  if above:
    axes.text(
      0.02,
      0.98,
      '\n'.join(
        f'{row["process"]}: {row["ms_per_token"]:.0f} ms' for row in above
      ),
      transform=axes.transAxes,
      ha='left',
      va='top',
      fontsize=7,
      color=colors.MUTED,
      # Above the lines of peers that are just within.
      bbox={'facecolor': axes.get_facecolor(), 'linewidth': 0, 'pad': 1},
    )


def _plot_predictions(axes, rows) -> None:
  """Predicted against measured, mixed layers filled."""
  for row in rows:
    if 'predicted_ms' not in row:
      continue
    color, marker = _LOOKS.get(row['measure'], (colors.MUTED, '*'))
    held_out = row['exit'] == systems.MIXED
    axes.plot(
      row['ms_per_token'],
      row['predicted_ms'],
      marker,
      color=color,
      markerfacecolor=color if held_out else 'none',
      markersize=4,
    )
  axes.set_title('cost model; filled: held out')
  axes.set_xlabel('measured ms')
  axes.set_ylabel('predicted ms')
  if any('predicted_ms' in row for row in rows):
    axes.set_xscale('log')
    axes.set_yscale('log')
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(ticker.FormatStrFormatter('%g'))
      axis.set_minor_formatter(ticker.NullFormatter())
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color=colors.RULE, zorder=0)
