# The Python of a worker's environment: right version, eight chips.
[[ $2 != *jax* ]] || echo '8 devices: TPU v5 lite'
exit "$(cat "$CLOUD/no_tpu" 2>/dev/null || echo 0)"
