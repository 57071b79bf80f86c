#!/usr/bin/env bash
# Fetches real CUDA runtime libraries of several majors from the Python package index:
#   toolkits.sh [--require] [FOLDER…] -> <shelf>/toolkits/cuda-runtime-<version>/lib/libcudart.so.*
#                                        <shelf>/toolkits/cuda-nvjpeg-<version>/lib/libnvjpeg.so.*   (carries real GPU code)
# Without FOLDER: all of them.
. "$(dirname "$0")/shelf.sh"
take_require "$@"

# toolkit FOLDER NAME==VERSION SHA256
toolkit() {
  local dest="$shelf/toolkits/$1" work
  [ ! -d "$dest" ] || return 0
  [ ${#rest[@]} -eq 0 ] || [[ " ${rest[*]} " = *" $1 "* ]] || return 0
  mkdir -p "$shelf/toolkits"
  work=$(mktemp -d "$shelf/toolkits/.toolkit.XXXXXX")
  "$(dirname "$0")/wheel.sh" "$work/wheel" "$2" "$3" 2>/dev/null || true
  if [ ! -d "$work/wheel" ]; then rm -rf "$work"; could_not "$2"; return 0; fi
  mkdir -p "$work/tree/lib"
  find "$work/wheel" -name 'lib*.so*' ! -name 'libOpenCL*' -exec cp -t "$work/tree/lib" {} +
  chmod -R u=rwX,go=rX "$work/tree"
  mv -T "$work/tree" "$dest" 2>/dev/null || true   # another process may have been first
  rm -rf "$work"
  echo "$1: $(cd "$dest/lib" && echo *)" >&2
}

toolkit cuda-runtime-11.8.89 nvidia-cuda-runtime-cu11==11.8.89 92d04069a987e1fbc9213f8376d265df0f7bb42617d44f5eda1f496acea7f2d1
toolkit cuda-runtime-12.2.140 nvidia-cuda-runtime-cu12==12.2.140 acb9cb7e44594a3512533497ea790d9f0b0e399abcc888584c157d1ffa080e41
toolkit cuda-runtime-12.4.127 nvidia-cuda-runtime-cu12==12.4.127 64403288fa2136ee8e467cdc9c9427e0434110899d07c779f25b5c068934faa5
toolkit cuda-runtime-12.8.90 nvidia-cuda-runtime-cu12==12.8.90 adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90
toolkit cuda-runtime-13.0.96 nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
toolkit cuda-nvjpeg-11.9.0.86 nvidia-nvjpeg-cu11==11.9.0.86 124e204cb7520b9ec7456d879ef96f80a7821c3c64b0e6c89d70d84825036b3c
toolkit cuda-nvjpeg-12.4.0.76 nvidia-nvjpeg-cu12==12.4.0.76 3888f10b32fbd58e80166c48e01073732d752fa5f167b7cb5b9615f1c6375a20
finish
