# Sourced by the other scripts: where fetched parts lie, and the one way in (a pinned SHA-256).
# Nothing here or in its users is ever committed or republished: driver libraries are not free software.
set -euo pipefail

shelf="${CUDAENV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}}/cudaenv/parts"   # same rule as e2e/src/parts.rs
mkdir -p "$shelf"
required=no
missing=()

# Takes --require out of the arguments: with it, a part that could not be had makes the script fail.
take_require() {
  rest=()
  local argument
  for argument; do
    if [ "$argument" = --require ]; then required=yes; else rest+=("$argument"); fi
  done
}

# Runs once at a time per machine user: two test programs may ask for the same part.
lock_shelf() { exec 8>"$shelf/.lock" && flock 8; }

# have_sha256 FILE SHA256
have_sha256() {
  [ -f "$1" ] || return 1
  local measured
  measured=$(sha256sum <"$1") && measured=${measured%% *}
  [ "$measured" = "$2" ] && return
  echo "${1##*/}: SHA-256 is $measured, pinned is $2: not used" >&2
  return 1
}

could_not() { missing+=("$1"); echo "could not fetch $1" >&2; }

finish() {
  [ ${#missing[@]} -eq 0 ] || [ "$required" = no ] || exit 1
  exit 0
}
