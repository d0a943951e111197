# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154
# What the scripts do, one function per stage; watch.sh puts them in a row.

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ROOT=${SCRIPTS%/*}
REQUESTED=false

# Requests the TPU unless STATE says that it is there or on its way.
request_unless_there() {
  case $STATE in
    FAILED | SUSPENDED)
      note "${FLAG[name]} is $STATE, which is for ever; replacing it"
      delete_tpu || return $?
      ;;
    SUSPENDING | DELETING)
      wait_until_gone || return $?
      request_unless_there
      return $?
      ;;
    NOT_FOUND) ;;
    *)
      note "${FLAG[name]} is there already ($STATE); nothing requested"
      return 0
      ;;
  esac
  REQUESTED=true
  request_tpu && return 0
  # The answer may have been lost: never request twice what is there.
  read_state ACTIVE || return $?
  [[ $STATE == NOT_FOUND ]] || return 0
  REQUESTED=false
  note 'the request was refused: quota, zone, type or permission? See above.'
  return "$RESOURCE_ERROR"
}

wait_until_gone() {
  while [[ $STATE == SUSPENDING || $STATE == DELETING ]]; do
    pause "${FLAG[poll_seconds]}"
    read_state NOT_FOUND || return $?
  done
}

# Returns 4 if the request ends in another way than with a TPU.
wait_until_active() {
  local before=
  while read_state ACTIVE || return; do
    [[ $STATE == "$before" ]] || note "${FLAG[name]}: $STATE"
    before=$STATE
    case $STATE in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | NOT_FOUND)
        _target
        note "no TPU. The reason: gcloud compute tpus queued-resources" \
          "describe ${FLAG[name]} $(quoted "${TARGET[@]}")"
        return "$RESOURCE_ERROR"
        ;;
    esac
    pause "${FLAG[poll_seconds]}"
  done
}

# Installs Python 3.11 and calm_jax on every worker.
set_up() {
  local files=("$SCRIPTS/worker/install.sh" "$SCRIPTS/worker/job.sh"
    "$ROOT/constraints.txt")
  local what
  if [[ -n ${FLAG[ref]} ]]; then
    what=(ref "git+${FLAG[repo]}@${FLAG[ref]}")
  elif [[ -n ${FLAG[wheel]} ]]; then
    what=(wheel "${FLAG[wheel]##*/}")
    files+=("${FLAG[wheel]}")
  else
    what=(checkout checkout.tar)
    pack_checkout || return $?
    files+=("$CHECKOUT")
  fi
  on_workers all 'mkdir -p calm_tpu/incoming' &&
    copy_to_workers "${files[@]}" &&
    on_workers all "$(quoted bash calm_tpu/incoming/install.sh "${what[@]}" \
      "${FLAG[device_check]}")"
}

# Packs the files that git tracks or would track, as they are now.
pack_checkout() {
  local path paths=()
  CHECKOUT=$CACHE/checkout.tar
  if on dry_run; then
    echo "# packs the checkout into $CHECKOUT"
    return 0
  fi
  mkdir -p "$CACHE"
  git -C "$ROOT" rev-parse --git-dir >/dev/null || fail "$CONFIG_ERROR" \
    'these scripts do not lie in a git checkout; give --wheel or --ref.'
  while IFS= read -r -d '' path; do
    [[ ! -f $ROOT/$path ]] || paths+=("$path")
  done < <(git -C "$ROOT" ls-files -coz --exclude-standard)
  # The same files give the same bytes, so that nothing is installed twice.
  printf '%s\0' "${paths[@]}" |
    LC_ALL=C tar -C "$ROOT" --null --sort=name --owner=0 --group=0 \
      --no-recursion -cf "$CHECKOUT" -T -
}

# job_command VERB ARGUMENT...: a line for the workers.
job_command() {
  quoted bash calm_tpu/job.sh "$1" "${FLAG[job]}" "${@:2}"
}

# Starts `calm REST...` on every worker, or leaves it running.
launch() {
  local variable options=("--sync_dir=${FLAG[sync_dir]}")
  [[ -z ${FLAG[bucket]} ]] || options+=("--bucket=${FLAG[bucket]}"
    "--sync_seconds=${FLAG[sync_seconds]}")
  for variable in "${ENVIRONMENT[@]}"; do
    options+=("--env=$variable")
  done
  on_workers all "$(job_command start "${options[@]}" -- "${REST[@]}")"
}

# fetch DIRECTORY: results and logs into it.
fetch() {
  local copy=copy_a target=$1/${FLAG[sync_dir]}
  run mkdir -p "$target" || return $?
  if [[ -n ${FLAG[bucket]} ]]; then
    # LATEST names the copy that is complete.
    if on dry_run; then
      run gcloud storage cat "${FLAG[bucket]}/LATEST"
    else
      copy=$(gcloud storage cat "${FLAG[bucket]}/LATEST" </dev/null) || return $?
    fi
    run_with_retries gcloud storage rsync "${FLAG[bucket]}/$copy" "$target" \
      --recursive
  else
    copy_from_worker "calm_tpu/work/${FLAG[sync_dir]}" "$1" &&
      copy_from_worker calm_tpu/jobs "$1"
  fi
}
