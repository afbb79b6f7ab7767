#!/bin/sh
# needs.sh: what `make test` and `make demo` say on machines that lack something, before anything is built. The machines are
# folders of programs that are made up here, one behind the other on a PATH of its own.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
passed=0
# Those of the make that runs this.
unset MAKEFLAGS MAKELEVEL MFLAGS SKIP GOAL CI CXX CC MLXRT_INSTALL || true

fail() { echo "tests/scripts: $*" >&2; exit 1; }
ok() { passed=$((passed + 1)); }

# program FOLDER NAME TEXT: a script.
program() {
  printf '#!/bin/sh\n%s\n' "$3" >"$1/$2"
  chmod 755 "$1/$2"
}

# machine NAME: a folder with everything that the suite needs, and a record of what was run in $work/ran.
machine() {
  here=$work/$1
  mkdir -p "$here"
  for tool in sh env make uname sed head grep cat sleep mkdir touch rm; do
    ln -s "$(command -v "$tool")" "$here/$tool"
  done
  program "$here" cargo 'case $1 in --version) echo "cargo 1.95.0 (abc 2026-03-21)" ;; *) echo "cargo $*" >>"'"$work"'/ran" ;; esac'
  program "$here" c++ 'case $1 in -dumpversion) echo 12 ;; --version) echo "c++ (Debian 12.2.0)" ;; esac'
  program "$here" go 'echo go1.26.8'
  program "$here" id 'echo 1000'
  for tool in cc python3 nm readelf pkg-config cmake swift; do program "$here" "$tool" 'exit 0'; done
  mkdir -p "$here/home/.cargo/registry/index"
  : >"$work/ran"
}

# say STATUS COMMAND...: runs it on the machine; its words are in $work/said. It has five seconds.
say() {
  status=$1
  shift
  begun=$(date +%s)
  got=0
  env -i PATH="$here" HOME="$here/home" "$@" >"$work/said" 2>&1 || got=$?
  took=$(($(date +%s) - begun))
  [ "$got" = "$status" ] || fail "$* gave $got and not $status: $(cat "$work/said")"
  [ "$took" -le 5 ] || fail "$* took $took seconds"
}
has() { grep -qF -e "$1" "$work/said" || fail "\"$1\" is not in: $(cat "$work/said")"; }
has_not() { ! grep -qF -e "$1" "$work/said" || fail "\"$1\" is in: $(cat "$work/said")"; }
needs() { say "$1" sh "$root/scripts/needs.sh" test build scripts rust c cpp docs cli install go swift; }
nothing_was_built() { [ ! -s "$work/ran" ] || fail "$(cat "$work/ran") was run"; }

# ---- Everything is there: nothing is said ----
machine whole
needs 0
[ ! -s "$work/said" ] || fail "it says $(cat "$work/said")"
ok

# ---- Each tool that is missing is named, with how to get it, and the parts that can be left out ----
each() { # TOOL NAME HOW SKIP
  machine "without-$1"
  rm "$here/$1"
  needs 1
  has "$2"
  has "$3"
  if [ -n "$4" ]; then has "make test SKIP=\"$4\""; else has_not 'SKIP='; fi
  ok
}
each cargo "cargo 1.89 or newer" https://rustup.rs ""
each c++ "g++ 12 or newer" "apt-get install g++" ""
each python3 "python3 with pip" "apt-get install python3 python3-pip" go
each cmake cmake "apt-get install cmake" install
each pkg-config pkg-config "apt-get install pkg-config" "install go swift"
each go "go 1.24 or newer" https://go.dev/dl go
each swift "Swift 6" https://swift.org/install swift

# ---- What is too old is named with its version ----
machine old
program "$here" cargo 'echo "cargo 1.63.0 (abc 2022-07-01)"'
program "$here" c++ 'case $1 in -dumpversion) echo 10 ;; *) echo "g++ (Debian 10.2.1)" ;; esac'
program "$here" go 'echo go1.19.8'
needs 1
has "cargo 1.89 or newer, not 1.63.0"
has "g++ 12 or newer, not 10"
has "go 1.24 or newer, not 1.19.8"
ok
# Clang's numbers are its own.
machine clang
program "$here" c++ 'case $1 in -dumpversion) echo 4.2.1 ;; *) echo "Debian clang version 16" ;; esac'
needs 0
ok

# ---- A machine with a shell and nothing else ----
here=$work/bare
mkdir "$here"
ln -s "$(command -v sh)" "$here/sh"
needs 1
for words in "cargo 1.89" "g++ 12" python3 pkg-config cmake go Swift "SKIP=\"install go swift\""; do has "$words"; done
ok

# ---- As root with apt-get, it is installed; asked not to, it is said ----
apt() { # a machine whose apt knows what follows: "PACKAGE VERSION"...
  machine "$1"
  shift
  program "$here" id 'echo 0'
  cases=''
  for pair; do cases="$cases ${pair% *}) echo 'Candidate: ${pair#* }' ;;"; done
  program "$here" apt-cache "case \$2 in $cases *) echo 'Candidate: (none)' ;; esac"
  # Each package brings the programs of its name.
  program "$here" apt-get 'echo "apt-get $*" >>"'"$work"'/ran"
case $1 in install) for word; do case $word in cmake | debootstrap | pkg-config) : >"'"$here"'/$word"; /bin/chmod 755 "'"$here"'/$word" ;; esac; done ;; esac'
}
apt root "cmake 3.25.1-1" "debootstrap 1.0.128"
rm "$here/cmake" "$here/swift"
needs 0
grep -q 'install.* cmake debootstrap$' "$work/ran" || fail "it ran $(cat "$work/ran")"
ok
rm "$here/cmake"
: >"$work/ran"
say 1 env MLXRT_INSTALL=no sh "$root/scripts/needs.sh" test build install
has "apt-get install cmake"
nothing_was_built
ok
# What apt has too old is not installed, and neither is the rest: it says so first.
apt rust "cargo 0.66.0+ds1-1" "rustc 1.63" "cmake 3.25.1-1"
rm "$here/cargo" "$here/cmake"
needs 1
has https://rustup.rs
! grep -q install "$work/ran" || fail "it ran $(cat "$work/ran")"
ok
# Debian has a newer one under another name.
apt web "cargo 0.66.0+ds1-1" "rustc 1.63" "cargo-web 1.96.0+dfsg1-1~deb12u2" "rustc-web 1.96.0+dfsg1-1~deb12u2"
rm "$here/cargo"
needs 1
grep -q 'install.* cargo-web rustc-web$' "$work/ran" || fail "it ran $(cat "$work/ran")"
ok
# An apt-get that fails leaves the words.
apt broken "cmake 3.25.1-1"
rm "$here/cmake"
program "$here" apt-get 'exit 100'
needs 1
has "cmake: install the package cmake"
ok

# ---- make itself: nothing is built before ----
machine make
rm "$here/cmake" "$here/cargo"
say 2 make -C "$root" test
has "make test cannot run yet"
has "cmake: install"
say 2 make -C "$root" demo
has "make demo cannot run yet"
has https://rustup.rs
has_not cmake
say 2 make -C "$root" test-go
has "cargo 1.89"
nothing_was_built
ok

# ---- What is skipped is said, and fails in CI ----
machine skip
rm "$here/cmake" "$here/go" "$here/swift"
all="scripts rust c cpp docs cli install go swift"
say 0 make -C "$root" test SKIP="$all"
has "without what was skipped: $all"
grep -q '^cargo build --release$' "$work/ran" || fail "it built $(cat "$work/ran")"
say 2 env CI=true make -C "$root" test SKIP="$all"
has "in CI nothing may be skipped"
say 2 make -C "$root" test SKIP="golang"
has 'SKIP is "golang"; it can have scripts rust c cpp docs cli install go swift'
ok

echo "tests/scripts: $passed checks passed"
