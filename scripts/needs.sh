#!/bin/sh
# needs.sh GOAL PART...: whether everything is there that the parts of `make GOAL` need, before anything is built. Where it may
# (as root, with apt-get), it installs what is missing; elsewhere it says what that is and how to get it, and fails.
#
#   PART                the build, or a part of `make test`: scripts rust c cpp docs cli install go swift
#   MLXRT_INSTALL=no    never install
#
# It needs a shell and nothing else, so that it can speak on any machine.
set -u
goal=$1
shift

missing='' # "NAME|PACKAGES|HOW" in each line
short=''   # the parts of the suite that lack something that the build does not
must=no    # whether the build lacks something
newline='
'

have() { command -v "$1" >/dev/null 2>&1; }

# at_least WANTED FOUND: as MAJOR.MINOR; what is no number counts as new.
at_least() {
  found_minor=${2#*.} wanted_minor=${1#*.}
  found_major=${2%%.*} found_minor=${found_minor%%[!0-9]*}
  case $found_major in '' | *[!0-9]*) return 0 ;; esac
  [ "$found_major" -gt "${1%%.*}" ] && return 0
  [ "$found_major" -eq "${1%%.*}" ] && [ "${found_minor:-0}" -ge "$wanted_minor" ]
}

# lack NAME PACKAGES HOW: PACKAGES are apt's; with a "/" between alternatives, the first that is new enough.
lack() {
  case $part in
    build | rust | cli) must=yes ;;
    *)
      case $base in *"|$1|"*) return ;; esac
      case " $short " in *" $part "*) ;; *) short="$short $part" ;; esac
      ;;
  esac
  case $newline$missing in *"$newline$1|"*) return ;; esac
  missing="${missing:+$missing$newline}$1|$2|$3"
  [ "$part" != build ] || base="$base|$1|"
}

rust_needs() {
  if ! have cargo; then
    lack "cargo 1.89 or newer" "cargo:1.89 rustc / cargo-web:1.89 rustc-web" "Rust, from https://rustup.rs"
  else
    version=$(cargo --version 2>/dev/null) || version='cargo 0.0'
    version=${version#cargo } version=${version%% *}
    at_least 1.89 "$version" ||
      lack "cargo 1.89 or newer, not $version" "" "Rust, from https://rustup.rs; if it is there: rustup update stable"
  fi
  # Without certificates cargo fetches nothing.
  fetched=${CARGO_HOME:-${HOME:-/root}/.cargo}/registry/index
  if [ "$system" = Linux ] && [ ! -d "$fetched" ] && [ -z "${SSL_CERT_FILE:-}${CARGO_HTTP_CAINFO:-}" ] &&
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] && [ ! -e /etc/pki/tls/certs/ca-bundle.crt ] && [ ! -e /etc/ssl/cert.pem ]; then
    lack "certificates" "ca-certificates" "the package ca-certificates"
  fi
}

compiler_needs() {
  compiler=${CXX:-c++}
  if ! have "${compiler%% *}"; then
    lack "g++ 12 or newer" "g++" "the package g++ (macOS: Xcode)"
  elif [ "$system" = Linux ]; then
    words=$($compiler --version 2>/dev/null)
    version=$($compiler -dumpversion 2>/dev/null)
    case $words in
      *clang*) ;;
      *) at_least 12.0 "${version:-0}" || lack "g++ 12 or newer, not $version" "" "a newer g++; CXX names it if it has another name" ;;
    esac
  fi
  have "${CC:-cc}" || lack "cc" "gcc" "the package gcc (macOS: Xcode)"
}

python_needs() {
  if ! have python3; then
    lack "python3 with pip" "python3 python3-pip" "the package python3-pip"
  elif ! python3 -c 'import pip' >/dev/null 2>&1; then
    lack "python3 with pip" "python3-pip" "the package python3-pip"
  fi
}

tool() { have "$1" || lack "$1" "$2" "the package $2"; }

needs_of() {
  part=$1
  case $part in
    build | rust | cli)
      rust_needs
      compiler_needs
      [ "$system" = Darwin ] && tool cmake cmake
      # MLX itself comes as a wheel.
      [ "$system" = Linux ] && python_needs
      ;;
    scripts) ;;
    c | cpp | docs)
      compiler_needs
      have python3 || python_needs
      ;;
    install)
      compiler_needs
      for name in readelf nm; do tool "$name" binutils; done
      tool pkg-config pkg-config
      tool cmake cmake
      ;;
    go)
      tool pkg-config pkg-config
      # From 1.21 on, go fetches the version that go.mod asks for.
      if ! have go; then
        lack "go 1.24 or newer" "golang-go:1.21" "Go, from https://go.dev/dl"
      else
        version=$(go env GOVERSION 2>/dev/null) version=${version#go}
        at_least 1.21 "${version:-0}" || lack "go 1.24 or newer, not $version" "" "a newer Go, from https://go.dev/dl"
      fi
      # For OpenAI's client, which the chat server is tested with.
      python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        lack "python3 with venv" "python3-venv" "the package python3-venv"
      ;;
    swift)
      tool pkg-config pkg-config
      folder=${MLXRT_SWIFT_ROOT:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/mlxrt/swift-root}
      if have swift || [ -e "$folder/.mlxrt-ready" ]; then
        return
      elif [ "$system" = Linux ] && [ "$user" = 0 ]; then
        # It fetches a Swift into a folder of its own.
        have debootstrap || lack "Swift 6, or debootstrap" "debootstrap" "Swift, from https://swift.org/install; or the package debootstrap"
      else
        lack "Swift 6" "" "Swift, from https://swift.org/install; or, as root, the package debootstrap, which fetches one"
      fi
      ;;
    *)
      echo "needs.sh: there is no part $part" >&2
      exit 2
      ;;
  esac
}

system=$(uname -s 2>/dev/null) || system=Linux
user=$(id -u 2>/dev/null) || user=unknown
look() {
  missing='' short='' must=no base=''
  for wanted in "$@"; do needs_of "$wanted"; done
}
look "$@"
[ -n "$missing" ] || exit 0

# newest PACKAGE: the version that apt would install, without its epoch.
newest() {
  apt-cache policy "$1" 2>/dev/null | while read -r key value; do
    [ "$key" = Candidate: ] && [ "$value" != "(none)" ] && echo "${value#*:}"
  done
}

# choose PACKAGES: the first alternative whose packages are all there and new enough; nothing where there is none.
choose() {
  chosen='' fits=yes
  for word in $1 /; do
    if [ "$word" = / ]; then
      [ "$fits" = yes ] && [ -n "$chosen" ] && echo "$chosen" && return
      chosen='' fits=yes
      continue
    fi
    version=$(newest "${word%%:*}")
    case $word in
      *:*) [ -n "$version" ] && at_least "${word#*:}" "$version" || fits=no ;;
      *) [ -n "$version" ] || fits=no ;;
    esac
    chosen="$chosen ${word%%:*}"
  done
}

install() {
  echo "make $goal needs more than is here; apt-get installs it (MLXRT_INSTALL=no: it only says what)." >&2
  apt-get update -q -o Acquire::Retries=0 -o Acquire::http::Timeout=10 >/dev/null 2>&1 || return 1
  packages='' unknown=''
  while IFS='|' read -r name wanted _; do
    found=$(choose "$wanted")
    [ -n "$found" ] && packages="$packages $found" || unknown="$unknown $name"
  done <<LIST
$missing
LIST
  # All or nothing: what remains has to be got by hand anyway.
  [ -z "$unknown" ] || return 1
  echo "make $goal: installing$packages" >&2
  # shellcheck disable=SC2086 # the packages are words
  DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends $packages >&2 || return 1
}

if [ "$user" = 0 ] && have apt-get && [ "${MLXRT_INSTALL:-yes}" != no ] && install; then
  look "$@"
  [ -n "$missing" ] || exit 0
fi

packages=''
{
  echo
  echo "make $goal cannot run yet. Missing:"
  while IFS='|' read -r name wanted how; do
    echo "  - $name: install $how"
    # What may be too old there is not advised.
    case $wanted in *:*) continue ;; esac
    for word in $wanted; do
      case " $packages " in *" $word "*) ;; *) packages="$packages $word" ;; esac
    done
  done <<LIST
$missing
LIST
  [ -z "$packages" ] || echo "On Debian and Ubuntu, as root: apt-get install$packages"
  if [ "$goal" = test ] && [ -n "$short" ]; then
    if [ "$must" = yes ]; then also=' (the rest is needed for every part)'; else also=''; fi
    echo "Or leave parts of the suite out: make test SKIP=\"${short# }\"$also"
  fi
} >&2
exit 1
