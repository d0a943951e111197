# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154
# Flags written as T5X's: --name=value, --switch; after -- come arguments for
# somebody else. The default of --name is the environment variable
# CALM_TPU_NAME. The functions fill FLAG (name -> value) and REST.

CONFIG_ERROR=2
RESOURCE_ERROR=4
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/calm_jax/tpu

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash 4.4 or newer is required, got $BASH_VERSION" \
    '(on macOS: brew install bash).' >&2
  exit "$RESOURCE_ERROR"
fi

declare -A FLAG=() FLAG_HELP=() FLAG_PLACEHOLDER=()
FLAG_NAMES=()
REST=()
ENVIRONMENT=()

# fail EXIT_CODE SENTENCE...
fail() {
  echo "${0##*/}: error: ${*:2}" >&2
  exit "$1"
}

# note SENTENCE...: progress; stdout is for the commands of a dry run.
note() {
  echo "$(date '+%H:%M:%S') ${*}" >&2
}

# define_flag NAME PLACEHOLDER DEFAULT HELP...; without PLACEHOLDER a switch.
define_flag() {
  local variable=CALM_TPU_${1^^}
  FLAG_NAMES+=("$1")
  FLAG_PLACEHOLDER[$1]=$2
  FLAG[$1]=${!variable-$3}
  FLAG_HELP[$1]=${*:4}
}

# parse_flags DESCRIPTION ARGUMENT...
# --env is known to the scripts that start jobs.
parse_flags() {
  local description=$1 argument name
  shift
  while (($#)); do
    argument=$1
    shift
    case $argument in
      --) REST=("$@") && return ;;
      --help | -h) _print_help "$description" && exit 0 ;;
      --env=*) _add_environment "${argument#--env=}" ;;
      --*=*)
        name=${argument%%=*}
        _set_flag "${name#--}" "${argument#*=}"
        ;;
      --*) _set_switch "${argument#--}" ;;
      *) fail "$CONFIG_ERROR" 'flags are written --name=value, got' \
        "'$argument'. Arguments for calm come after --." ;;
    esac
  done
}

_set_flag() {
  [[ -v FLAG[$1] ]] || _unknown_flag "$1"
  if [[ -z ${FLAG_PLACEHOLDER[$1]} && $2 != true && $2 != false ]]; then
    fail "$CONFIG_ERROR" "--$1 is a switch: --$1 or --$1=false, got '$2'."
  fi
  FLAG[$1]=$2
}

_set_switch() {
  [[ -v FLAG[$1] ]] || _unknown_flag "$1"
  if [[ -n ${FLAG_PLACEHOLDER[$1]} ]]; then
    fail "$CONFIG_ERROR" "--$1 needs a value: --$1=${FLAG_PLACEHOLDER[$1]}."
  fi
  FLAG[$1]=true
}

_unknown_flag() {
  fail "$CONFIG_ERROR" "unknown flag --$1. Flags: ${FLAG_NAMES[*]/#/--}."
}

_add_environment() {
  if [[ ! -v FLAG[sync_dir] ]]; then
    _unknown_flag env
  fi
  if [[ ! $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then
    fail "$CONFIG_ERROR" "--env needs NAME=VALUE, got '$1'."
  fi
  ENVIRONMENT+=("$1")
}

_print_help() {
  local name
  printf '%s\n\nflags, each with its default from the environment:\n' "$1"
  for name in "${FLAG_NAMES[@]}"; do
    printf '  --%s%s\n      %s [CALM_TPU_%s' "$name" \
      "${FLAG_PLACEHOLDER[$name]:+=${FLAG_PLACEHOLDER[$name]}}" \
      "${FLAG_HELP[$name]}" "${name^^}"
    printf '%s]\n' "${FLAG[$name]:+, now ${FLAG[$name]}}"
  done
}

# Whether a switch is on.
on() {
  [[ ${FLAG[$1]} == true ]]
}

# require FLAG EXAMPLE: it has a value.
require() {
  [[ -n ${FLAG[$1]} ]] || fail "$CONFIG_ERROR" "--$1 is required, for example" \
    "--$1=$2; or set CALM_TPU_${1^^}."
}

# require_match FLAG REGULAR_EXPRESSION EXAMPLE REQUIREMENT
require_match() {
  require "$1" "$3"
  [[ ${FLAG[$1]} =~ $2 ]] || fail "$CONFIG_ERROR" \
    "--$1 must be $4, for example $3; got '${FLAG[$1]}'."
}

# require_count FLAG...: whole numbers, 0 included.
require_count() {
  local name
  for name; do
    require_match "$name" '^[0-9]{1,7}$' 10 'a whole number'
  done
}
