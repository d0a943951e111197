#!/usr/bin/env bash
# Copies results and logs here.
# shellcheck disable=SC1091,SC2034,SC2154 # the files of lib are checked alone
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/flags.sh"
source "$here/lib/settings.sh"
source "$here/lib/gcloud.sh"
source "$here/lib/stages.sh"

define_target_flags
define_job_flags
define_flag output_dir DIR '' 'folder to copy into'
parse_flags 'Copies results and logs here.

  fetch.sh --project=ID --zone=ZONE --name=NAME --output_dir=DIR
  fetch.sh --bucket=gs://B/FOLDER --output_dir=DIR

From the bucket if one is given, which needs no TPU any more; else from the
first worker.' "$@"
require output_dir results
if [[ -n ${FLAG[bucket]} ]]; then
  require_count retries retry_wait
else
  check_target
fi
check_job_flags
fetch "${FLAG[output_dir]}"
