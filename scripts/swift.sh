#!/bin/bash
# swift.sh setup | DIR COMMAND...: runs COMMAND in DIR with a Swift toolchain on the PATH.
#
# Where `swift` is installed that one is used. Elsewhere, on Linux, Debian trixie's swiftlang (6.0.3) is put into a folder
# of its own, once (2.7 GB, some minutes, root; an interrupted setup goes on where it was), and COMMAND runs chrooted there.
# Nothing of the machine changes: the mounts are made in a mount namespace that ends with the command, however that
# ends. Inside, the source tree, DIR and the folders named below lie where they lie outside.
#
#   MLXRT_SWIFT_ROOT    the folder of the toolchain; default ~/.cache/mlxrt/swift-root
#   MLXRT_SWIFT_BINDS   more folders that COMMAND needs, separated by ':'
#   MLXRT_DEBIAN        Debian's mirror; default http://deb.debian.org/debian
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd -P)
root=${MLXRT_SWIFT_ROOT:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mlxrt/swift-root}
mirror=${MLXRT_DEBIAN:-http://deb.debian.org/debian}
packages=(swiftlang libc6-dev libstdc++-14-dev ca-certificates pkg-config)
stamp=$root/.mlxrt-ready

fail() { echo "swift.sh: $*" >&2; exit 1; }

# What the setup does, in a mount namespace of its own.
install() {
  if [ ! -e "$root/.mlxrt-base" ]; then
    # A base system that was interrupted is made anew, from the packages that were fetched.
    rm -rf --one-file-system "$root"
    mkdir -p "$root" "$root.packages"
    echo "swift.sh: fetching a base system into $root" >&2
    debootstrap --variant=minbase --cache-dir="$root.packages" trixie "$root" "$mirror" >"$root.log" 2>&1 ||
      fail "debootstrap failed, see $root.log"
    rm -rf "$root.packages"
    touch "$root/.mlxrt-base"
  fi
  mount -t proc proc "$root/proc"
  # Names are looked up as outside.
  cat /etc/resolv.conf >"$root/etc/resolv.conf"
  echo "swift.sh: installing ${packages[*]}" >&2
  # No services are started, and pages of manuals are left out.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
  {
    chroot "$root" dpkg --configure -a &&
      chroot "$root" apt-get update &&
      chroot "$root" apt-get install -y --no-install-recommends "${packages[@]}" &&
      chroot "$root" swift --version
  } >>"$root.log" 2>&1 || fail "installing the toolchain failed, see $root.log"
  rm -rf "$root"/var/cache/apt/archives/*.deb
  touch "$stamp"
}

setup() {
  ! command -v swift >/dev/null || return 0
  [ ! -e "$stamp" ] || return 0
  [ "$(uname -s)" = Linux ] || fail "swift is not on the PATH: install Xcode"
  [ "$(id -u)" = 0 ] ||
    fail "swift is not on the PATH, and making the toolchain's folder needs root: install Swift 6 (swift.org/install), or run 'sudo $0 setup' and then this as root"
  command -v debootstrap >/dev/null ||
    fail "swift is not on the PATH, and neither is debootstrap, which would fetch it: apt-get install debootstrap (or install Swift 6 yourself)"
  mkdir -p "$(dirname "$root")"
  # Two at once: the second one waits and finds it done.
  exec 9>"$root.lock"
  flock 9
  [ ! -e "$stamp" ] || return 0
  unshare --mount --propagation private "$0" --install
  exec 9>&-
}

# The chrooted command, in a mount namespace of its own.
enter() {
  local dir=$1 path
  shift
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  # Before the folders: some of them may lie below.
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  local binds=("$tree" "$dir")
  IFS=: read -ra more <<<"${MLXRT_SWIFT_BINDS:-}"
  for path in "${binds[@]}" "${more[@]}"; do
    [ -n "$path" ] || continue
    [ -d "$path" ] || fail "the folder $path is missing"
    path=$(cd "$path" && pwd -P)
    mkdir -p "$root$path"
    mountpoint -q "$root$path" || mount --bind "$path" "$root$path"
  done
  exec chroot "$root" /usr/bin/env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/bin:/bin "${KEPT[@]}" sh -c 'cd "$1" && shift && exec "$@"' sh "$dir" "$@"
}

case ${1:-} in
  "") fail "usage: swift.sh setup | DIR COMMAND..." ;;
  --install) install ;;
  --enter)
    shift
    # Settings of this project and of the linker travel; the rest of the environment speaks of the system outside.
    KEPT=()
    while IFS= read -r -d '' entry; do
      case $entry in MLXRT_* | PKG_CONFIG_PATH=* | LD_LIBRARY_PATH=*) KEPT+=("$entry") ;; esac
    done < <(env -0)
    enter "$@"
    ;;
  setup) setup ;;
  *)
    setup
    if command -v swift >/dev/null; then
      cd "$1" && shift && exec "$@"
    fi
    exec unshare --mount --propagation private "$0" --enter "$(cd "$1" && pwd -P)" "${@:2}"
    ;;
esac
