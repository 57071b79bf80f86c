# Sourced after shelf.sh: an apt of our own on the archive that this machine's sources name. Those sources stay as they are.

# archive: the address of the Debian archive that this machine is configured to use.
archive() {
  local found
  found=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '/^URIs:/ {print $2; exit}')
  [ -n "$found" ] || found=$(cat /etc/apt/sources.list 2>/dev/null | awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /:\//) {print $i; exit}}')
  if [ -z "$found" ] || ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "no apt sources on this machine" >&2; return 1
  fi
  echo "$found"
}

# private_apt PROGRAM FOLDER ARGUMENT…: apt-get or apt-cache, with FOLDER/sources.list and nothing of this machine's own.
private_apt() {
  local program=$1 folder=$2; shift 2
  mkdir -p "$folder/lists/partial" "$folder/archives/partial"
  "$program" -qq -o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$folder/lists" \
    -o Dir::State::status=/dev/null -o Dir::Cache="$folder" -o APT::Sandbox::User=root -o Acquire::Languages=none \
    -o APT::Get::List-Cleanup=0 -o Acquire::Retries=3 -o Acquire::http::Timeout=30 "$@"
}
