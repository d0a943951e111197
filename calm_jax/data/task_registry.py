"""Finds tasks that are not built in by name: CALM's, and added ones."""

from calm_jax.data import calm_tasks, text_tasks


def find(name: str) -> text_tasks.TextTask | None:
  """The task of that name; None if there is none."""
  return _all().get(name)


def names() -> list[str]:
  """Names of all of them."""
  return sorted(_all())


def _all() -> dict[str, text_tasks.TextTask]:
  return {**calm_tasks.TASKS, **text_tasks.added()}
