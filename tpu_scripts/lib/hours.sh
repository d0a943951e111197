# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154
# The cost guard's clock: hours during which there was a TPU, those of lost ones
# included. A file keeps them, so that a watch that is begun again counts on;
# a laptop's sleep counts as well.

USED_SECONDS=0
ACTIVE_SINCE=

hours_file() {
  echo "$CACHE/hours/${FLAG[project]}.${FLAG[zone]}.${FLAG[name]}"
}

recall_hours() {
  local file
  MAX_SECONDS=$(awk -v hours="${FLAG[max_hours]}" \
    'BEGIN { printf "%d", hours * 3600 }')
  file=$(hours_file)
  if [[ -f $file ]] && ! on dry_run; then
    read -r USED_SECONDS ACTIVE_SINCE <"$file"
  fi
}

# count_hours STATE: to be called at every look.
count_hours() {
  local now file
  now=$(date +%s)
  if [[ $1 == ACTIVE && -z $ACTIVE_SINCE ]]; then
    ACTIVE_SINCE=$now
  elif [[ $1 != ACTIVE && -n $ACTIVE_SINCE ]]; then
    USED_SECONDS=$((USED_SECONDS + now - ACTIVE_SINCE))
    ACTIVE_SINCE=
  else
    return 0
  fi
  on dry_run && return 0
  file=$(hours_file)
  mkdir -p "${file%/*}"
  echo "$USED_SECONDS $ACTIVE_SINCE" >"$file"
}

forget_hours() {
  USED_SECONDS=0
  ACTIVE_SINCE=
  on dry_run || rm -f "$(hours_file)"
}

used_seconds() {
  local now=0
  [[ -z $ACTIVE_SINCE ]] || now=$(date +%s)
  echo $((USED_SECONDS + now - ${ACTIVE_SINCE:-0}))
}

within_budget() {
  (($(used_seconds) < MAX_SECONDS))
}

# hours SECONDS, with two digits.
hours() {
  awk -v seconds="$1" 'BEGIN { printf "%.2f", seconds / 3600 }'
}
