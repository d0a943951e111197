#!/usr/bin/env bash
# Runs on a TPU worker: Python 3.11 and calm_jax into ~/calm_tpu/venv.
#
#   install.sh checkout|wheel FILE DEVICE_CHECK
#   install.sh ref git+URL@REF     DEVICE_CHECK
#
# FILE lies next to this script. Installed already: nothing happens.
set -euo pipefail

RESOURCE_ERROR=4
kind=$1 source=$2 device_check=$3
home=$HOME/calm_tpu
incoming=$home/incoming
python=$home/venv/bin/python
stamp=$home/venv/.calm_installed
export PATH=$HOME/.local/bin:$PATH

fail() {
  echo "install.sh on $(hostname): error: $*" >&2
  exit "$RESOURCE_ERROR"
}

# Held while calm runs; see job.sh.
job_runs() {
  [[ -e $home/running.lock ]] && ! flock -n "$home/running.lock" true
}

# What is to be installed, as one number; a git reference may move.
fingerprint() {
  if [[ $kind == ref ]]; then
    echo "ref $source"
  else
    cat "$incoming/$source" "$incoming/constraints.txt" | sha256sum
  fi
}

find_uv() {
  command -v uv >/dev/null && return
  python3 -m pip install --user --quiet uv ||
    fail 'uv could not be installed with python3 -m pip.'
}

make_environment() {
  # Ubuntu 22.04 brings Python 3.10, which is too old.
  if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
    2>/dev/null; then
    return
  fi
  rm -rf "$home/venv"
  uv venv --quiet --python 3.11 "$home/venv" ||
    fail 'uv could not make an environment with Python 3.11.'
}

install_package() {
  local package
  case $kind in
    ref) package="calm_jax[tpu] @ $source" ;;
    wheel) package="calm_jax[tpu] @ file://$incoming/$source" ;;
    checkout)
      rm -rf "$home/checkout"
      mkdir "$home/checkout"
      tar -C "$home/checkout" -xf "$incoming/$source"
      package="calm_jax[tpu] @ file://$home/checkout"
      ;;
    *) fail "unknown kind of package: $kind" ;;
  esac
  rm -f "$stamp"
  uv pip install --quiet --python "$python" \
    --constraints "$incoming/constraints.txt" \
    --reinstall-package calm-jax "$package" ||
    fail 'calm_jax could not be installed; the reason stands above.'
}

check_devices() {
  "$python" -c '
import jax
kinds = sorted({d.device_kind for d in jax.local_devices()})
print(jax.local_device_count(), "devices:", ", ".join(kinds))
raise SystemExit(jax.default_backend() != "tpu")
' || fail 'JAX sees no TPU. Another process may hold it:' \
    'sudo lsof /dev/accel* /dev/vfio/*; a reboot frees it.'
}

mkdir -p "$home"
# Two set-ups at once would mix.
exec 9>"$home/install.lock"
flock 9
mv -f "$incoming/job.sh" "$home/job.sh"
if [[ -f $stamp && $(<"$stamp") == "$(fingerprint)" ]]; then
  if [[ $kind != ref ]] || job_runs; then
    echo "install.sh on $(hostname): installed already"
    exit 0
  fi
fi
! job_runs || fail 'a job is running; stop it first, or wait for its end.'
find_uv
make_environment
install_package
"$home/venv/bin/calm" --version
[[ $device_check != true ]] || check_devices
fingerprint >"$stamp"
