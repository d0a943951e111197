# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154
# The flags that several scripts share, and their checks.

define_target_flags() {
  define_flag project ID '' 'Google Cloud project'
  define_flag zone ZONE '' 'zone that has the accelerator'
  define_flag name NAME '' 'name of the TPU and of its request in the queue'
  define_flag dry_run '' false 'print the exact commands, run none'
  define_flag retries N 5 'times that a failed connection is tried again'
  define_flag retry_wait SECONDS 15 'pause before each'
}

define_create_flags() {
  define_flag accelerator_type TYPE '' 'such as v5litepod-8 or v6e-1'
  define_flag runtime_version VERSION '' \
    "the TPU's software; without it, chosen by the accelerator's type"
  define_flag spot '' false 'cheaper, may be taken away at any time'
  define_flag valid_until_duration TIME '' \
    'give up waiting in the queue after it, such as 6h'
  define_flag service_account EMAIL '' \
    "whom the TPU acts as; without it, Compute Engine's default account"
  define_flag poll_seconds SECONDS 30 'pause between two looks at the state'
}

define_setup_flags() {
  define_flag ref GIT_REF '' 'install this branch, tag or commit of --repo'
  define_flag repo URL '' 'git repository of --ref, readable by the TPU'
  define_flag wheel FILE '' 'install this wheel; without --ref and --wheel,' \
    'the checkout that these scripts lie in'
  define_flag device_check '' true 'end set-up by counting the TPU chips'
}

define_job_flags() {
  define_flag job NAME calm 'name of the command, log and exit code'
  define_flag sync_dir DIR runs 'folder of results, below the work folder'
  define_flag bucket URL '' 'gs://BUCKET/FOLDER that keeps copies of sync_dir'
  define_flag sync_seconds SECONDS 300 'pause between two copies'
}

check_target() {
  require_match project '^[a-z][a-z0-9.:-]{4,61}[a-z0-9]$' my-project \
    'a project ID'
  require_match zone '^[a-z]+-[a-z]+[0-9]+-[a-z]$' us-west4-a 'a zone'
  require_match name '^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$' calm-1 \
    'lower-case letters, digits and hyphens, beginning with a letter'
  require_count retries retry_wait
  on dry_run || command -v gcloud >/dev/null || fail "$RESOURCE_ERROR" \
    'gcloud is not on the PATH. Install the Google Cloud CLI and run' \
    'gcloud auth login.'
}

check_create_flags() {
  require_match accelerator_type '^v[0-9][a-z0-9]*-[0-9]+$' v5litepod-8 \
    'a generation and a size'
  require_count poll_seconds
  if [[ -z ${FLAG[runtime_version]} ]]; then
    # https://docs.cloud.google.com/tpu/docs/runtimes
    case ${FLAG[accelerator_type]} in
      v6e-*) FLAG[runtime_version]=v2-alpha-tpuv6e ;;
      v5p-*) FLAG[runtime_version]=v2-alpha-tpuv5 ;;
      v5litepod-*) FLAG[runtime_version]=v2-alpha-tpuv5-lite ;;
      v[234]-*) FLAG[runtime_version]=tpu-ubuntu2204-base ;;
      *) fail "$CONFIG_ERROR" 'no runtime version is known here for' \
        "${FLAG[accelerator_type]}. Give --runtime_version; gcloud compute" \
        "tpus tpu-vm versions list --zone=${FLAG[zone]} lists them." ;;
    esac
  fi
}

check_setup_flags() {
  if [[ -n ${FLAG[ref]} && -n ${FLAG[wheel]} ]]; then
    fail "$CONFIG_ERROR" '--ref and --wheel exclude each other.'
  elif [[ -n ${FLAG[ref]} ]]; then
    require_match repo '^(https|ssh)://[^[:space:]]+$' \
      https://example.com/calm_jax.git 'an https or ssh URL'
  elif [[ -n ${FLAG[wheel]} ]]; then
    # gcloud reads host:path in what it copies.
    [[ ${FLAG[wheel]} == *.whl && ${FLAG[wheel]} != *:* &&
      -f ${FLAG[wheel]} ]] || fail "$CONFIG_ERROR" '--wheel must be a wheel' \
      "file, its path without colons; got '${FLAG[wheel]}'."
  fi
}

check_job_flags() {
  require_match job '^[A-Za-z0-9][A-Za-z0-9_-]*$' train \
    'letters, digits, _ and -'
  require_match sync_dir '^[A-Za-z0-9_][A-Za-z0-9_-]*$' runs \
    'the name of one folder'
  require_count sync_seconds
  [[ -z ${FLAG[bucket]} ]] || check_bucket
}

check_bucket() {
  FLAG[bucket]=${FLAG[bucket]%/}
  require_match bucket '^gs://[a-z0-9][a-z0-9._-]+(/[^*?#[:cntrl:]]+)?$' \
    gs://my-bucket/cnn_dm 'a gs:// address without wildcards'
}

check_calm_command() {
  ((${#REST[@]})) || fail "$CONFIG_ERROR" 'no calm command. Give it after --,' \
    'for example: -- train --gin_file=gin/experiments/docstrings.gin' \
    "--gin.MODEL_DIR='\"runs/docstrings\"'"
}
