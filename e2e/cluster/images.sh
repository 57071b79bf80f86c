#!/usr/bin/env bash
# Makes container images without a registry or a builder, in the folder it is given: `pause` and `busybox`, each of one
# static program, and `glibc`: busybox and the machine's C library, for programs that are not static. `localhost/` in a name keeps every runtime from asking a registry; pods say `imagePullPolicy: Never`.
set -euo pipefail
folder=$1
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# image NAME ROOT CONFIG: localhost/e2e/NAME:1 from a file tree and a JSON of the runtime's configuration
image() {
  local name=$1 root=$2 settings=$3 digest config architecture
  case $(uname -m) in x86_64) architecture=amd64 ;; aarch64) architecture=arm64 ;; *) architecture=$(uname -m) ;; esac
  tar --sort=name --owner=0 --group=0 --mtime=@1 -C "$root" -cf layer.tar .
  digest=$(sha256sum <layer.tar)
  config="{\"architecture\":\"$architecture\",\"os\":\"linux\",\"config\":$settings,"
  config+="\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:${digest%% *}\"]}}"
  echo "$config" >config.json
  echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"localhost/e2e/$name:1\"],\"Layers\":[\"layer.tar\"]}]" >manifest.json
  tar -cf "$folder/$name.tar" manifest.json config.json layer.tar
}

mkdir -p pause busybox/bin
printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' >pause.c
gcc -static -Os -o pause/pause pause.c
image pause pause '{"Entrypoint":["/pause"]}'
cp "$(command -v busybox)" busybox/bin/busybox
for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "busybox/bin/$applet"; done
image busybox busybox '{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}'

cp -r busybox glibc
loader=$(readelf -l "$(command -v bash)" | sed -nE 's|.*interpreter: (.*)\]|\1|p')
libc=$(ldd "$(command -v bash)" | sed -nE 's|.* => (/.*/libc\.so\.6) .*|\1|p')
install -D "$(readlink -f "$loader")" "glibc$loader"
for library in c.so.6 m.so.6 dl.so.2 pthread.so.0 rt.so.1; do
  install -D "$(readlink -f "${libc%/*}/lib$library")" "glibc${libc%/*}/lib$library"
done
image glibc glibc '{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}'
