#!/usr/bin/env bash
# Lays out the user-mode libraries of six real NVIDIA drivers, one root per version, as Debian lays them out:
#   drivers.sh [--require] -> <shelf>/drivers/<version>/usr/lib/x86_64-linux-gnu/nvidia/…/libcuda.so.<version>
# They come from the archive the machine's own apt sources name, through a private apt state folder, so those
# sources stay as they are. No GPU, no root and no signature trust is needed: each file's SHA-256 is pinned here.
. "$(dirname "$0")/shelf.sh"
. "$(dirname "$0")/apt.sh"
take_require "$@"
lock_shelf

work=$(mktemp -d "$shelf/.drivers.XXXXXX"); trap 'rm -rf "$work"' EXIT
prepared=

# Points a private apt at the non-free parts of the archive that this machine is configured to use.
prepare() {
  [ -z "$prepared" ] || return "$prepared"
  prepared=1
  local archive suite
  archive=$(archive) || return 1
  for suite in bullseye bookworm trixie sid experimental; do
    echo "deb [trusted=yes] $archive $suite non-free"
  done >"$work/sources.list"
  private_apt apt-get "$work" update 2>/dev/null || true   # a suite may be gone: the pinned files decide
  prepared=0
}

# driver VERSION, then one line on stdin per file: PACKAGE=BUILD SHA256
driver() {
  local version=$1 root="$shelf/drivers/$1" package sha256 packages=() sums=() file
  while read -r package sha256; do packages+=("$package"); sums+=("$sha256"); done
  [ ! -d "$root" ] || return 0
  mkdir -p "$work/$version/debs" "$work/$version/root" "$shelf/drivers"
  if ! prepare || ! (cd "$work/$version/debs" && private_apt apt-get "$work" download "${packages[@]}" 2>/dev/null); then
    could_not "driver $version"; return 0
  fi
  local i
  for i in "${!packages[@]}"; do
    file="$work/$version/debs/${packages[$i]%%=*}_${packages[$i]#*=}_amd64.deb"
    have_sha256 "$file" "${sums[$i]}" || { could_not "driver $version"; return 0; }
    dpkg-deb -x "$file" "$work/$version/root"
  done
  rm -rf "$work/$version/root/usr/share" "$work/$version/root/etc"
  mv -T "$work/$version/root" "$root"   # appears complete or not at all
  echo "driver $version: $(find "$root" -name '*.so.*' -type f | wc -l) libraries" >&2
}

driver 450.248.02 <<'L'
libnvidia-tesla-450-cuda1=450.248.02-7~deb11u1 d2999eed13256afc50398cbe02638aa979f974c8e488a1a77de40c5d57d3d74f
libnvidia-tesla-450-ptxjitcompiler1=450.248.02-7~deb11u1 ddc0697eba3cbdd2ec91a1cc7fdb1c16aa0e73e680b4efb0980967fd3b53b615
libnvidia-tesla-450-ml1=450.248.02-7~deb11u1 5fd71c89c52974ba1cc7d646a632fc6bd37e5110725e704df0e6bbf1706d9940
L
driver 470.256.02 <<'L'
libnvidia-tesla-470-cuda1=470.256.02-1~deb12u1 0ef309cde7850f977b54e9914346a8a258fb716b474f76bb61539c239b492858
libnvidia-tesla-470-ptxjitcompiler1=470.256.02-1~deb12u1 55f887a7311dab63f5c3b46a086882713dc14efcaacb6d0270fff077ec7c96f9
libnvidia-tesla-470-nvvm4=470.256.02-1~deb12u1 5c3c33a7e9006a09d8a171e4a2ea814e4eab5349d73a1309be47f2412617b4c0
libnvidia-tesla-470-ml1=470.256.02-1~deb12u1 14b876d2da6fc2b3271c2170a4e69f9ce06b67d608016b7bc1c9119883dc95c2
L
driver 525.147.05 <<'L'
libnvidia-tesla-cuda1=525.147.05-15~deb12u1 93dd22409393521d911cfebeedf59201244d1196464f36a2631dceb3f99f2097
libnvidia-tesla-ptxjitcompiler1=525.147.05-15~deb12u1 dfda984bdeebb2e3944a86e4ce4e79748e5e0edf4629c4142d1b0816c2b87f61
libnvidia-tesla-nvvm4=525.147.05-15~deb12u1 4d4eacfe6d2308c84412723c2a8cfb047b0ca127703ee4691ab4ce8c22f65e2c
libnvidia-tesla-ml1=525.147.05-15~deb12u1 187321f507c01d4fa63bf7a66f6ba93b688772c087b64e063654ff144b114da9
L
driver 535.274.02 <<'L'
libnvidia-tesla-535-cuda1=535.274.02-1~deb13u1 8a3aa23dfe7b0f958dae1ac59a12274f0351c1a627ebb645c2145fc1684a2c96
libnvidia-tesla-535-ptxjitcompiler1=535.274.02-1~deb13u1 b37550e6bf157ceb4c14d7f01454c5c7bf36e13db7ce88f13e1e4c721b5fa8cb
libnvidia-tesla-535-nvvm4=535.274.02-1~deb13u1 82a2b6d0f219b0f34795de239a82a02c8e7f1ac24395e441ffe0ee4095c3cc93
libnvidia-tesla-535-ml1=535.274.02-1~deb13u1 6008ce81331d9dd48e539155a30653d970600c7fff00fc43a63ba53a525002c2
L
driver 550.163.01 <<'L'
libcuda1=550.163.01-2 8feff97aac61d6f27ded96a3c25b9e68025a680476e6072ff7eaf10623509135
libnvidia-ptxjitcompiler1=550.163.01-2 73ce8da87e13d0cd5a7f5ec3e0b5822f91fe1cc72977542cd9a8354c25d810f4
libnvidia-nvvm4=550.163.01-2 6b5177372c21edff846caeb98c9bc861eef6799c50c6b590f901d415c231c278
libnvidia-ml1=550.163.01-2 01c1b67d511d7f52c6aa60e14ed56a8eb725d5dc85784a08214d6cb0f4fd1f89
L
driver 555.58.02 <<'L'
libcuda1=555.58.02-4 3f2c5cb91c88b5f6ce05c81de553ce3ff72e0772dcd07c7e0a85b8cd408b4457
libnvidia-ptxjitcompiler1=555.58.02-4 0bbf805a9c13a552d07cb3470fc3f3f6b7dbe5f39808cf10486448ffc792d279
libnvidia-nvvm4=555.58.02-4 e688919cf817a8fbd9d1ead7c17cbe2082e5f55dfe9c6b7927caaf3cc54dd599
libnvidia-ml1=555.58.02-4 b731d4ae7f68bd940e6f4c7f072a17b58f38685f875087e61f29c1f23dc7972b
L
finish
