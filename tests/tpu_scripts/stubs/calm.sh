# calm on a worker: adds a line to its result, notes its arguments, then ends
# with the next code of calm.script; "wait" waits for SIGTERM, as training does.
[[ $1 != --version ]] || exit 0
trap 'echo saved >>runs/result.txt; exit 143' TERM
echo "variable: ${VARIABLE-unset}"
mkdir -p runs
echo "worker $WORKER" >>runs/result.txt
read -r answer <"$CLOUD/calm.script" || true
sed -i 1d "$CLOUD/calm.script"
# Once its answer is taken: a test that sees them may kill it.
printf '%s\0' "$@" >>"$CLOUD/argv.${HOME##*/}"
if [[ $answer == wait ]]; then
  while true; do sleep 0.05; done
fi
exit "${answer:-0}"
