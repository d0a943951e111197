#!/usr/bin/env bash
# Deletes a TPU and its request. What lies on its disks is lost.
# shellcheck disable=SC1091,SC2034,SC2154 # the files of lib are checked alone
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/flags.sh"
source "$here/lib/settings.sh"
source "$here/lib/gcloud.sh"
source "$here/lib/hours.sh"

define_target_flags
parse_flags 'Deletes a TPU and its request. What lies on its disks is lost.

  delete.sh --project=ID --zone=ZONE --name=NAME' "$@"
check_target
read_state ACTIVE || exit
if [[ $STATE == NOT_FOUND ]]; then
  note "${FLAG[name]} is not there; nothing to delete"
  exit 0
fi
delete_tpu
forget_hours
