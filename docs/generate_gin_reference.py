"""Writes docs/gin_reference.md: python -m docs.generate_gin_reference.

    @gin.configurable, and what gin/ binds --> parameters, defaults, docstrings
    gin/runs/*.gin --> macros, defaults, the comments above them

A test fails where the page is not what this makes of the code.
"""

import ast
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'gin_reference.md'

_INTRO = """# Gin reference

<!-- Made by docs/generate_gin_reference.py; change the code, then run it. -->

What gin files can bind: the macros of `gin/runs`, and every function and class
of calm_jax that is a `@gin.configurable` or that a file of `gin/` binds. A name
in a gin file is the module's last part and the name, as
`model.EncoderDecoderModel.measure`, once the file has imported the module
(`from calm_jax.decode import model`). Anything else that can be imported, a
class of yours for instance, can be bound alike: [extending.md](extending.md).
"""
_REQUIRED = 'required'


def page() -> str:
  """The whole page."""
  parts = [_INTRO, '## Macros of gin/runs\n', *_macro_sections()]
  parts += ['## Configurables\n', *_configurable_sections()]
  return '\n'.join(parts)


# ---- Macros ------------------------------------------------------------------


def _macro_sections() -> list[str]:
  return [
    _macro_section(path) for path in sorted((ROOT / 'gin' / 'runs').iterdir())
  ]


def _macro_section(path: pathlib.Path) -> str:
  content = path.read_text(encoding='utf-8')
  heading = f'### {path.relative_to(ROOT)}\n\n{_first_comment(content)}\n'
  included = re.findall(r"^include '(.*)'", content, re.MULTILINE)
  if included:
    heading += f'\nIncludes {", ".join(f"`{name}`" for name in included)}.\n'
  rows = [
    f'| `{name}` | {_code(value)} | {cell(comment)} |'
    for name, value, comment in macros(content)
  ]
  if not rows:
    return heading
  return '\n'.join(
    [heading, '| macro | default | |', '|---|---|---|', *rows, '']
  )


def macros(content: str) -> list[tuple[str, str, str]]:
  """Macros of a gin file: name, value, and the comment right above it.

  A comment speaks of the first macro below it.
  """
  found, comment = [], []
  for line in _joined(content).splitlines():
    macro = re.match(r'([A-Z][A-Z0-9_]*) = (.*)$', line)
    if macro:
      value = _REQUIRED if macro[2] == '%gin.REQUIRED' else macro[2]
      found.append((macro[1], value, ' '.join(comment)))
    is_comment = line.startswith('# ') and not line.startswith('# ----')
    comment = [*comment, line[2:].strip()] if is_comment else []
  return found


def _joined(content: str) -> str:
  """Values over several lines on one."""
  return re.sub(
    r'= ([({\[])\n(.*?)\n([)}\]])',
    lambda m: f'= {m[1]}{" ".join(m[2].split()).rstrip(",")}{m[3]}',
    content,
    flags=re.DOTALL,
  )


def _first_comment(content: str) -> str:
  """The first paragraph of the header."""
  header = content.partition('\n#\n')[0].partition('\nfrom ')[0]
  lines = [line.removeprefix('#').strip() for line in header.splitlines()]
  return '\n'.join(textwrap.wrap(' '.join(lines), 80)).strip()


# ---- Configurables -----------------------------------------------------------


def _configurable_sections() -> list[str]:
  in_files = bound_in_files()
  return [
    _section(path, item)
    for path in sorted((ROOT / 'calm_jax').rglob('*.py'))
    for item in definitions(path)
    if f'{_module(path)}.{item.name}' in in_files
    or any(_is_configurable(x) for x in item.decorator_list)
  ]


def bound_in_files() -> set[str]:
  """Full names of what gin/ names: 'calm_jax.training.losses.lm_loss'."""
  found = set()
  for path in (ROOT / 'gin').rglob('*.gin'):
    lines = path.read_text(encoding='utf-8').splitlines()
    content = '\n'.join(line for line in lines if not line.startswith('#'))
    for package, module in re.findall(
      r'^from (calm_jax[\w.]*) import (\w+)$', content, re.MULTILINE
    ):
      for name in re.findall(rf'(?<![\w.]){module}\.(\w+)', content):
        found.add(f'{package}.{module}.{name}')
  return found


def definitions(path: pathlib.Path) -> list[ast.AST]:
  """Classes and functions of a module."""
  tree = ast.parse(path.read_text(encoding='utf-8'))
  return [
    node
    for node in tree.body
    if isinstance(node, (ast.ClassDef, ast.FunctionDef))
  ]


def _module(path: pathlib.Path) -> str:
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def _is_configurable(decorator: ast.AST) -> bool:
  called = decorator.func if isinstance(decorator, ast.Call) else decorator
  return ast.unparse(called).startswith('gin.configurable')


def _section(path: pathlib.Path, node: ast.AST) -> str:
  docstring = ast.get_docstring(node) or ''
  first = ' '.join(docstring.partition('\n\n')[0].split())
  explained, found = {}, []
  for part in _with_bases(path, node):
    explained |= explanations(ast.get_docstring(part) or '')
    found += parameters(part)
    for item in part.body:
      if isinstance(item, ast.FunctionDef) and item.name == '__init__':
        explained |= explanations(ast.get_docstring(item) or '')
  heading = f'### {_module(path)}.{node.name}\n\n{_wrapped(first)}\n'
  rows = [
    f'| `{name}` | {_code(default)} | {cell(explained.get(name, ""))} |'
    for name, default in found
  ]
  if not rows:
    return heading
  return '\n'.join(
    [heading, '| parameter | default | |', '|---|---|---|', *rows, '']
  )


def _with_bases(path: pathlib.Path, node: ast.AST) -> list[ast.AST]:
  """The class after those of its bases that stand in the same file."""
  bases = {ast.unparse(base) for base in getattr(node, 'bases', ())}
  tree = ast.parse(path.read_text(encoding='utf-8'))
  return [
    part
    for known in tree.body
    if isinstance(known, ast.ClassDef) and known.name in bases
    for part in _with_bases(path, known)
  ] + [node]


def parameters(node: ast.AST) -> list[tuple[str, str]]:
  """What can be bound: names and defaults, as the code writes them."""
  if isinstance(node, ast.FunctionDef):
    return _arguments(node.args)
  for item in node.body:
    if isinstance(item, ast.FunctionDef) and item.name == '__init__':
      return _arguments(item.args)[1:]  # without self
  return [
    (item.target.id, ast.unparse(item.value) if item.value else _REQUIRED)
    for item in node.body
    if isinstance(item, ast.AnnAssign)
    and not ast.unparse(item.annotation).startswith('ClassVar')
  ]


def _arguments(arguments: ast.arguments) -> list[tuple[str, str]]:
  positional = [*arguments.posonlyargs, *arguments.args]
  missing = len(positional) - len(arguments.defaults)
  defaults = [None] * missing + arguments.defaults + arguments.kw_defaults
  return [
    (argument.arg, _REQUIRED if default is None else ast.unparse(default))
    for argument, default in zip(
      positional + arguments.kwonlyargs, defaults, strict=True
    )
  ]


def explanations(docstring: str) -> dict[str, str]:
  """`name: text` and `name, name: text` of Args: and Attributes:."""
  found = {}
  for block in re.findall(
    r'^(?:Args|Attributes):\n((?:  .*\n?|\n)*)', docstring, re.MULTILINE
  ):
    for names, text in re.findall(
      r'^  ([a-z_*][\w, *]*): (.*(?:\n    .*)*)', block, re.MULTILINE
    ):
      for name in names.split(','):
        found[name.strip(' *')] = ' '.join(text.split())
  return found


# ---- Markdown ----------------------------------------------------------------


def _wrapped(text: str) -> str:
  return '\n'.join(textwrap.wrap(_escaped(text), 80))


def _code(value: str) -> str:
  return value if value == _REQUIRED else f'`{value}`'.replace('|', '\\|')


def cell(text: str) -> str:
  return _escaped(text).replace('|', '\\|')


def _escaped(text: str) -> str:
  """Angle brackets and asterisks are text, but for what stands in backticks."""
  parts = text.split('`')
  parts[::2] = [re.sub(r'([<*])', r'\\\1', part) for part in parts[::2]]
  return '`'.join(parts)


if __name__ == '__main__':
  PAGE.write_text(page(), encoding='utf-8')
