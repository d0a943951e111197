#!/usr/bin/env bash
# Runs on a TPU worker: one calm command that outlives the connection.
#
#   job.sh start JOB [--sync_dir=DIR --bucket=URL --sync_seconds=N]
#     [--env=NAME=VALUE ...] -- CALM_ARGUMENT...
#   job.sh status JOB          prints: calm_job JOB running|absent|exited CODE
#   job.sh stop JOB SECONDS    lets it save, ends it after that time
#   job.sh log JOB LINES
#
# ~/calm_tpu/jobs/JOB holds command, log, rc (the exit code), and the process
# numbers pid of this script and calm_pid. Commands run in ~/calm_tpu/work.
set -euo pipefail

CONFIG_ERROR=2
RESOURCE_ERROR=4
home=$HOME/calm_tpu
verb=$1 job=$2
folder=$home/jobs/$job
shift 2

fail() {
  echo "job.sh on $(hostname): error: ${*:2}" >&2
  exit "$1"
}

# A lock that the job's processes hold, for a process number can be reused.
is_running() {
  [[ -e $home/running.lock ]] && ! flock -n "$home/running.lock" true
}

runs_this() {
  is_running && [[ $(<"$home/running.lock") == "$job" ]]
}

# Hosts of a TPU are called ...-w-0, ...-w-1.
is_first_worker() {
  [[ ! $(hostname) =~ -w-([0-9]+)$ || ${BASH_REMATCH[1]} == 0 ]]
}

start() {
  local running
  mkdir -p "$folder" "$home/work"
  exec 9>"$home/start.lock"
  flock 9
  printf '%s\0' "$@" >"$folder/command.new"
  if is_running; then
    running=$(<"$home/running.lock")
    if [[ $running == "$job" ]] && same_command; then
      echo "job.sh on $(hostname): $job is running already"
      return
    fi
    fail "$CONFIG_ERROR" "job $running is running, and a TPU serves one at a" \
      'time. Wait for it or stop it.'
  fi
  if [[ -f $folder/rc && $(<"$folder/rc") == 0 ]] && same_command; then
    echo "job.sh on $(hostname): $job has ended well already"
    return
  fi
  mv "$folder/command.new" "$folder/command"
  rm -f "$folder/rc" "$folder/pid" "$folder/calm_pid"
  echo "== $(date -u '+%F %T') start" >>"$folder/log"
  setsid nohup bash "$0" run "$job" >>"$folder/log" 2>&1 </dev/null 9>&- &
  # The job writes its number once it holds the lock.
  until [[ -s $folder/pid || -s $folder/rc ]]; do
    sleep 0.05
  done
  echo "job.sh on $(hostname): $job started"
}

same_command() {
  [[ -f $folder/command ]] && cmp -s "$folder/command" "$folder/command.new"
}

status() {
  if runs_this; then
    echo "calm_job $job running"
  elif [[ -f $folder/rc ]]; then
    echo "calm_job $job exited $(<"$folder/rc")"
  elif [[ -f $folder/pid ]]; then
    # Killed without a word, as by a reboot.
    echo "calm_job $job exited 137"
  else
    echo "calm_job $job absent"
  fi
}

stop() {
  local waited=0
  runs_this || return 0
  if [[ -s $folder/calm_pid ]]; then
    kill -TERM "$(<"$folder/calm_pid")" 2>/dev/null || true
  else
    kill_session  # Nothing is computed yet.
  fi
  while runs_this; do
    if ((waited++ >= $1 * 5)); then
      kill_session
      return
    fi
    sleep 0.2
  done
}

kill_session() {
  kill -KILL -- "-$(<"$folder/pid")" 2>/dev/null || true
}

read_command() {
  local argument
  sync_dir=runs bucket='' sync_seconds=300 arguments=()
  local -a words
  mapfile -d '' words <"$folder/command"
  set -- "${words[@]}"
  while (($#)); do
    argument=$1
    shift
    case $argument in
      --sync_dir=*) sync_dir=${argument#*=} ;;
      --bucket=*) bucket=${argument#*=} ;;
      --sync_seconds=*) sync_seconds=${argument#*=} ;;
      --env=*) export "${argument#--env=}" ;;
      --) arguments=("$@") && return ;;
      *) fail "$CONFIG_ERROR" "unknown option $argument" ;;
    esac
  done
}

# The copies in the bucket take turns, and LATEST names the complete one: a copy
# that is cut off spoils nothing.
read_latest() {
  local answer
  if answer=$(gcloud storage cat "$bucket/LATEST" 2>&1 </dev/null); then
    [[ $answer == copy_[ab] ]] || fail "$RESOURCE_ERROR" \
      "$bucket/LATEST must say copy_a or copy_b, got '$answer'."
    latest=$answer
  elif [[ $answer == *'matched no objects'* ]]; then
    latest=
  else
    # Starting over here would in time overwrite what is there.
    fail "$RESOURCE_ERROR" "$bucket cannot be read: $answer"
  fi
}

restore() {
  [[ -n $bucket ]] || return 0
  read_latest
  if [[ -n $latest && ! -e $sync_dir ]]; then
    # Aside first: a half copy must not look like a whole one.
    rm -rf "$sync_dir.incoming"
    mkdir "$sync_dir.incoming"
    gcloud storage rsync "$bucket/$latest" "$sync_dir.incoming" --recursive \
      </dev/null || fail "$RESOURCE_ERROR" "$bucket/$latest cannot be read."
    mv "$sync_dir.incoming" "$sync_dir"
    echo "== restored $sync_dir from $bucket/$latest"
  fi
}

save() {
  local next=copy_a
  is_first_worker && [[ -n $bucket && -d $sync_dir ]] || return 0
  [[ $latest != copy_a ]] || next=copy_b
  mkdir -p "$sync_dir/logs"
  cp "$folder/log" "$sync_dir/logs/$job.log"
  gcloud storage rsync "$sync_dir" "$bucket/$next" --recursive \
    --delete-unmatched-destination-objects </dev/null &&
    printf '%s' "$next" | gcloud storage cp - "$bucket/LATEST" || return
  latest=$next
}

# Waits for process $1, saving now and then.
wait_and_save() {
  local last=$SECONDS
  while kill -0 "$1" 2>/dev/null; do
    sleep 0.5 8>&-
    if ((SECONDS - last >= sync_seconds)); then
      save || echo '== the copy failed; the next one will do'
      last=$SECONDS
    fi
  done
}

run_job() {
  local code=0
  trap write_code EXIT
  # A shutdown asks every process to end; this one waits for calm, which saves.
  trap : TERM
  exec 8>>"$home/running.lock"
  flock -n 8 || fail "$RESOURCE_ERROR" 'another job is running.'
  echo "$job" >"$home/running.lock"
  echo $$ >"$folder/pid"
  cd "$home/work"
  read_command
  restore
  "$home/venv/bin/calm" "${arguments[@]}" &
  echo $! >"$folder/calm_pid"
  wait_and_save $!
  wait $! || code=$?
  echo "== $(date -u '+%F %T') calm ended with exit code $code"
  if ! save && ((code == 0)); then
    echo "== the results could not be copied to $bucket"
    code=$RESOURCE_ERROR
  fi
  exit "$code"
}

write_code() {
  local code=$?
  echo "$code" >"$folder/rc.new"
  mv "$folder/rc.new" "$folder/rc"
}

case $verb in
  start) start "$@" ;;
  status) status ;;
  stop) stop "$@" ;;
  log) tail -n "$1" "$folder/log" ;;
  run) run_job ;;
  *) fail "$CONFIG_ERROR" "unknown verb $verb" ;;
esac
