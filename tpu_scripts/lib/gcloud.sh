# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154
# The gcloud commands, shown or run; what their failures mean.
#
# Each return names its code: called by a trap, a bare one would return what the
# interrupted command did.

# quoted WORD...: one line that bash reads back as these words.
quoted() {
  local word line=
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      line+=" $word"
    else
      line+=" ${word@Q}"
    fi
  done
  printf '%s' "${line# }"
}

# run COMMAND...: in a dry run only shown, and fine.
run() {
  if on dry_run; then
    printf '%s\n' "$(quoted "$@")"
  else
    [[ ${QUIET-} == true ]] || note "+ $(quoted "$@")"
    "$@" </dev/null
  fi
}

# Connections fail with 255; gcloud itself with 1. Other codes are answers of
# what ran on the TPU, which would be the same the next time.
run_with_retries() {
  local attempt code
  for ((attempt = 0; ; attempt++)); do
    code=0
    run "$@" || code=$?
    ((code == 1 || code == 255)) || return "$code"
    ((attempt < FLAG[retries])) || return "$code"
    note "failed with $code; again in ${FLAG[retry_wait]} s"
    pause "${FLAG[retry_wait]}"
  done
}

# A sleep that a trapped signal ends at once.
pause() {
  on dry_run && return 0
  sleep "$1" >/dev/null 2>&1 &
  wait $! || true
}

_target() {
  TARGET=("--project=${FLAG[project]}" "--zone=${FLAG[zone]}")
}

# on_workers WORKER|all COMMAND: COMMAND is for the remote shell.
on_workers() {
  _target
  # A dead connection ends after three unanswered signs of life.
  run_with_retries gcloud compute tpus tpu-vm ssh "${FLAG[name]}" \
    "${TARGET[@]}" --worker="$1" --quiet \
    --ssh-flag=-oServerAliveInterval=30 --command="$2"
}

# copy_to_workers FILE...: into calm_tpu/incoming of each.
copy_to_workers() {
  _target
  run_with_retries gcloud compute tpus tpu-vm scp "$@" \
    "${FLAG[name]}:calm_tpu/incoming/" "${TARGET[@]}" --worker=all --quiet
}

# copy_from_worker FOLDER DESTINATION: of worker 0.
copy_from_worker() {
  _target
  run_with_retries gcloud compute tpus tpu-vm scp "${FLAG[name]}:$1" "$2" \
    "${TARGET[@]}" --worker=0 --recurse --quiet
}

request_tpu() {
  local options=()
  ! on spot || options+=(--spot)
  [[ -z ${FLAG[valid_until_duration]} ]] ||
    options+=("--valid-until-duration=${FLAG[valid_until_duration]}")
  [[ -z ${FLAG[service_account]} ]] ||
    options+=("--service-account=${FLAG[service_account]}")
  _target
  run gcloud compute tpus queued-resources create "${FLAG[name]}" \
    "--node-id=${FLAG[name]}" "${TARGET[@]}" \
    "--accelerator-type=${FLAG[accelerator_type]}" \
    "--runtime-version=${FLAG[runtime_version]}" "${options[@]}" --quiet
}

# Sets STATE to the request's state, or to NOT_FOUND; a dry run takes its
# argument for the answer. Fails where gcloud gives no answer.
read_state() {
  local attempt answer errors command
  _target
  command=(gcloud compute tpus queued-resources describe "${FLAG[name]}"
    "${TARGET[@]}" '--format=value(state.state)')
  if on dry_run; then
    run "${command[@]}"
    STATE=$1
    return 0
  fi
  errors=$(mktemp)
  for ((attempt = 0; attempt <= FLAG[retries]; attempt++)); do
    if answer=$("${command[@]}" 2>"$errors" </dev/null); then
      # An empty answer is given between two states.
      STATE=${answer:-UNKNOWN}
      rm -f "$errors"
      return 0
    elif grep -q NOT_FOUND "$errors"; then
      STATE=NOT_FOUND
      rm -f "$errors"
      return 0
    fi
    ((attempt == FLAG[retries])) || pause "${FLAG[retry_wait]}"
  done
  answer=$(<"$errors")
  rm -f "$errors"
  note "the state of ${FLAG[name]} could not be read: $answer"
  return "$RESOURCE_ERROR"
}

# Deletes the TPU and its request, and waits for it.
delete_tpu() {
  local attempt
  _target
  for ((attempt = 0; attempt <= FLAG[retries]; attempt++)); do
    ! run gcloud compute tpus queued-resources delete "${FLAG[name]}" \
      "${TARGET[@]}" --force --quiet || return 0
    # Gone all the same, by an earlier attempt whose answer was lost?
    if read_state NOT_FOUND && [[ $STATE == NOT_FOUND ]]; then
      return 0
    fi
    pause "${FLAG[retry_wait]}"
  done
  note "WARNING: ${FLAG[name]} COULD NOT BE DELETED AND MAY COST MONEY." \
    "Delete it: gcloud compute tpus queued-resources delete ${FLAG[name]}" \
    "$(quoted "${TARGET[@]}") --force"
  return "$RESOURCE_ERROR"
}
