#!/usr/bin/env bash
# Requests a TPU and waits until it is there.
# shellcheck disable=SC1091,SC2034,SC2154 # the files of lib are checked alone
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/flags.sh"
source "$here/lib/settings.sh"
source "$here/lib/gcloud.sh"
source "$here/lib/stages.sh"

define_target_flags
define_create_flags
define_flag wait '' true 'wait in the queue; Ctrl-C gives the request back'
parse_flags 'Requests a TPU and waits until it is there.

  create.sh --project=ID --zone=ZONE --name=NAME --accelerator_type=v5litepod-8

Nothing is requested twice: a TPU of this name that is there is kept.' "$@"
check_target
check_create_flags

# interrupted EXIT_CODE: gives back what this run has requested, and only that.
interrupted() {
  trap - INT TERM
  if [[ $REQUESTED == true ]]; then
    note 'interrupted; giving the request back'
    delete_tpu || true
  fi
  exit "$1"
}
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

read_state NOT_FOUND
request_unless_there
if on wait; then
  wait_until_active
fi
