#!/usr/bin/env bash
# Unpacks Debian's nginx on the shelf; nothing is installed and nothing is started:
#   nginx.sh [--require] -> prints the program, which the benchmarks run on loopback with a configuration of their own
. "$(dirname "$0")/shelf.sh"
take_require "$@"

program="$shelf/nginx/usr/sbin/nginx"
works() { "$program" -v >/dev/null 2>&1; }

lock_shelf
if works; then echo "$program"; exit 0; fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { could_not "nginx (no apt here)"; finish; }
work=$(mktemp -d "$shelf/.nginx.XXXXXX"); trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tree"
[ "$(id -u)" != 0 ] || apt-get -qq update >/dev/null 2>&1 || true
if ! (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download nginx 2>/dev/null); then could_not nginx; finish; fi
dpkg-deb -x "$work"/nginx_*.deb "$work/tree"
rm -rf "$shelf/nginx"
mv -T "$work/tree" "$shelf/nginx"
works || { could_not "an nginx that runs here"; finish; }
echo "$program"
