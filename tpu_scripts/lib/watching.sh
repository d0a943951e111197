# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154
# The loop of watch.sh: look, repair, count the hours, delete.

LAUNCHED=false
ENDED=false
RESTARTS=0
# Looks in a row that could not reach the workers.
TROUBLES=0

check_watch_flags() {
  require_match max_hours '^[0-9]{1,4}(\.[0-9]{1,4})?$' 10 'a number of hours'
  require_count max_restarts grace_seconds
  if [[ -z ${FLAG[bucket]}${FLAG[output_dir]} ]] && ! on keep; then
    fail "$CONFIG_ERROR" 'the TPU is deleted at the end, and the results' \
      'with it. Give --bucket or --output_dir (or --keep).'
  fi
}

watch() {
  trap 'end_watch 130 interrupted' INT
  trap 'end_watch 143 terminated' TERM
  # Whatever ends this script ends the costs.
  trap 'end_watch $? "stopped by an error"' EXIT
  recall_hours
  while true; do
    look
    pause "$(seconds_to_next_look)"
  done
}

# One round: read the state and act on it.
look() {
  # A dry run finds no TPU first, then one.
  read_state "$(on_if "$REQUESTED" ACTIVE NOT_FOUND)" ||
    end_watch "$RESOURCE_ERROR" 'gcloud gives no answer'
  count_hours "$STATE"
  within_budget || end_watch "$RESOURCE_ERROR" \
    "--max_hours=${FLAG[max_hours]} are used up"
  case $STATE in
    NOT_FOUND | FAILED | SUSPENDED) replace_tpu ;;
    ACTIVE) look_at_job ;;
    *) note_change "${FLAG[name]}: $STATE" ;;
  esac
}

replace_tpu() {
  # The first request is no restart, and its TPU no continued one.
  if [[ $REQUESTED == true || $STATE != NOT_FOUND ]]; then
    count_restart "${FLAG[name]} is $STATE"
  elif ((RESTARTS == 0)); then
    forget_hours
  fi
  LAUNCHED=false
  request_unless_there || count_restart 'the TPU could not be requested'
}

look_at_job() {
  if ! read_job; then
    reach_again
    return 0
  fi
  TROUBLES=0
  if [[ $LAUNCHED == false ]]; then
    prepare_job
    return 0
  fi
  note_change "${FLAG[job]}: $JOB"
  case $JOB in
    running) ;;
    absent) LAUNCHED=false ;;
    'exited 0') end_watch 0 'finished' ;;
    # The same would happen again: configuration, data, numbers.
    'exited 2' | 'exited 3' | 'exited 5')
      end_watch "${JOB#exited }" "calm ended with exit code ${JOB#exited }"
      ;;
    exited*)
      LAUNCHED=false
      count_restart "calm ended with exit code ${JOB#exited }"
      # Where one worker failed, others may wait for it.
      stop_job 10 || true
      ;;
  esac
}

# Reads the job's state on all workers into JOB: that of the worst one.
read_job() {
  local answer question worker_state
  question="if test -f calm_tpu/job.sh; then $(job_command status); \
else echo calm_job ${FLAG[job]} absent; fi"
  if on dry_run; then
    on_workers all "$question"
    JOB=$(on_if "$LAUNCHED" 'exited 0' absent)
    return 0
  fi
  answer=$(QUIET=true on_workers all "$question") || return $?
  JOB=
  while read -r worker_state; do
    worker_state=${worker_state#"calm_job ${FLAG[job]} "}
    JOB=$(worse_of "$JOB" "$worker_state")
  done < <(grep "^calm_job ${FLAG[job]} " <<<"$answer")
  [[ -n $JOB ]]
}

# A failure is worse than an absent job, that than a running one.
worse_of() {
  local state
  for state in "$@"; do
    if [[ $state == exited* && $state != 'exited 0' ]]; then
      echo "$state"
      return 0
    fi
  done
  for state in absent running; do
    if [[ $1 == "$state" || $2 == "$state" ]]; then
      echo "$state"
      return 0
    fi
  done
  echo 'exited 0'
}

prepare_job() {
  local code=0
  if [[ $JOB == absent ]]; then
    set_up || code=$?
  fi
  if ((code == 0)); then
    launch || code=$?
  fi
  if ((code == 0)); then
    LAUNCHED=true
  elif ((code == CONFIG_ERROR)); then
    # Somebody else's work may run there.
    FLAG[keep]=true
    end_watch "$code" 'the job was refused; see above'
  else
    count_restart "setting up or launching failed with exit code $code"
  fi
}

# A TPU that cannot be reached for several looks is replaced.
reach_again() {
  TROUBLES=$((TROUBLES + 1))
  note "the workers could not be reached ($TROUBLES)"
  if ((TROUBLES >= 3)); then
    TROUBLES=0
    LAUNCHED=false
    count_restart 'the workers cannot be reached'
    delete_tpu || end_watch "$RESOURCE_ERROR" 'the TPU cannot be replaced'
  fi
}

count_restart() {
  RESTARTS=$((RESTARTS + 1))
  ((RESTARTS <= FLAG[max_restarts])) || end_watch "$RESOURCE_ERROR" \
    "$1; --max_restarts=${FLAG[max_restarts]} are used up"
  note "$1; restart $RESTARTS of ${FLAG[max_restarts]}"
}

# stop_job SECONDS: asks calm to save and to end.
stop_job() {
  on_workers all "$(job_command stop "$1")"
}

# end_watch EXIT_CODE REASON: saves what can be saved, deletes, exits.
end_watch() {
  local code=$1
  [[ $ENDED == false ]] || exit "$code"
  ENDED=true
  # A second Ctrl-C is not held up.
  trap - INT TERM EXIT
  note "$2"
  if ((code)) && [[ $LAUNCHED == true ]]; then
    on keep || stop_job "${FLAG[grace_seconds]}" || true
    on_workers 0 "$(job_command log 20)" || true
  fi
  save_results "$code" || code=$((code ? code : RESOURCE_ERROR))
  note "$(printf 'hours of a TPU: %s' "$(hours "$(used_seconds)")")"
  if on keep; then
    note "${FLAG[name]} is kept, and costs until you run delete.sh"
  elif delete_tpu; then
    forget_hours
  else
    code=$RESOURCE_ERROR
  fi
  exit "$code"
}

# Results of a finished job that are nowhere else are worth waiting for, as
# long as the hours last.
save_results() {
  [[ -n ${FLAG[output_dir]} ]] || return 0
  until fetch "${FLAG[output_dir]}"; do
    note 'the results could not be copied'
    if (($1)) || [[ -n ${FLAG[bucket]} ]] || ! within_budget; then
      return "$RESOURCE_ERROR"
    fi
    pause "${FLAG[poll_seconds]}"
  done
}

seconds_to_next_look() {
  local left=$((MAX_SECONDS - $(used_seconds) + 1))
  echo $((left < FLAG[poll_seconds] ? left : FLAG[poll_seconds]))
}

# on_if CONDITION THEN ELSE
on_if() {
  if [[ $1 == true ]]; then echo "$2"; else echo "$3"; fi
}

note_change() {
  [[ $1 == "${LAST_NOTE-}" ]] || note "$1"
  LAST_NOTE=$1
}
