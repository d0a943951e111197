#!/usr/bin/env bash
# Installs Python 3.11 and calm_jax on every worker of a TPU.
# shellcheck disable=SC1091,SC2034,SC2154 # the files of lib are checked alone
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib/flags.sh"
source "$here/lib/settings.sh"
source "$here/lib/gcloud.sh"
source "$here/lib/stages.sh"

define_target_flags
define_setup_flags
parse_flags 'Installs Python 3.11 and calm_jax on every worker of a TPU.

  setup.sh --project=ID --zone=ZONE --name=NAME [--wheel=FILE]
  setup.sh --project=ID --zone=ZONE --name=NAME --repo=URL --ref=GIT_REF

Run it as often as you like: what is installed already is left alone.' "$@"
check_target
check_setup_flags
set_up
