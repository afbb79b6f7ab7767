#!/bin/sh
# docs.sh MLXRT SHARE: has the program write its manual pages and completions to where systems look for them.
set -eu
program=$1 share=$2
man=$share/man/man1
bash=$share/bash-completion/completions zsh=$share/zsh/site-functions fish=$share/fish/vendor_completions.d
mkdir -p "$man" "$bash" "$zsh" "$fish"
"$program" man "$man"
"$program" completions bash >"$bash/mlxrt"
"$program" completions zsh >"$zsh/_mlxrt"
"$program" completions fish >"$fish/mlxrt.fish"
