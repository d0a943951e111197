#!/usr/bin/env bash
# Starts a calm command on every worker; it outlives the connection.
# shellcheck disable=SC1091,SC2034,SC2154 # the files of lib are checked alone
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/flags.sh"
source "$here/lib/settings.sh"
source "$here/lib/gcloud.sh"
source "$here/lib/stages.sh"

define_target_flags
define_job_flags
parse_flags 'Starts a calm command on every worker; it outlives the connection.

  launch.sh --project=ID --zone=ZONE --name=NAME [--bucket=gs://B/FOLDER] \
    [--env=NAME=VALUE ...] -- train --gin_file=... --gin.MODEL_DIR=...

The same command again leaves a running job alone, does nothing where it has
ended well, and starts it anew where it has failed.' "$@"
check_target
check_job_flags
check_calm_command
launch
