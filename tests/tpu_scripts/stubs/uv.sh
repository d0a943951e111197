# uv on a worker: makes an environment whose calm and python are stubs too.
printf '%s\0' "$@" >>"$CLOUD/uv.${HOME##*/}"
echo >>"$CLOUD/uv.${HOME##*/}"
case $1 in
  venv)
    mkdir -p "${*: -1}/bin"
    cp "$CLOUD/worker_bin/stub_python" "${*: -1}/bin/python"
    ;;
  pip) cp "$CLOUD/worker_bin/stub_calm" "$HOME/calm_tpu/venv/bin/calm" ;;
esac
