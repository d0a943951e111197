"""Tools that try to break calm_jax: kills, mutations; no part of it."""
