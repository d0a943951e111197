"""calm_jax: confident adaptive language modeling in JAX."""

