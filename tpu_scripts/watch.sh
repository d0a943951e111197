#!/usr/bin/env bash
# Brings a calm command to its end on a TPU, and deletes the TPU.
# shellcheck disable=SC1091,SC2034,SC2154 # the files of lib are checked alone
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/flags.sh"
source "$here/lib/settings.sh"
source "$here/lib/gcloud.sh"
source "$here/lib/stages.sh"
source "$here/lib/hours.sh"
source "$here/lib/watching.sh"

define_target_flags
define_create_flags
define_setup_flags
define_job_flags
define_flag max_hours HOURS '' 'cost guard: delete after so many hours of a TPU'
define_flag max_restarts N 10 'times that a lost TPU or job is started again'
define_flag grace_seconds SECONDS 300 'time to save when the guard ends a job'
define_flag output_dir DIR '' 'copy results and logs here before deleting'
define_flag keep '' false 'do not delete the TPU at the end: it costs on'
parse_flags 'Brings a calm command to its end on a TPU, and deletes the TPU.

  watch.sh --project=ID --zone=ZONE --name=NAME --accelerator_type=TYPE \
    --spot --max_hours=10 --bucket=gs://B/FOLDER -- train --gin_file=... ...

Creates, sets up and launches what is not there yet, so it can be started at any
time, and again. A TPU that is taken away is requested anew and the command is
run again, which resumes it from the bucket. Ctrl-C deletes the TPU too, unless
--keep is given.

Exit codes: that of the calm command; 4 if the TPU, the restarts or the hours
ran out; 130 or 143 after a signal.' "$@"
check_target
check_create_flags
check_setup_flags
check_job_flags
check_watch_flags
check_calm_command
watch
