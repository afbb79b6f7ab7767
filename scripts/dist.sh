#!/bin/sh
# dist.sh LIB OUT: makes OUT/mlxrt-VERSION-OS-ARCH.tar.gz of what install.sh puts under a prefix, and its SHA-256 beside it.
# The same files give the same archive: names sorted, no owner, the commit's time. MLX and MLX_CUDA_WHEEL as in
# install.sh.
set -eu
lib=$1 out=$2
root=$(cd "$(dirname "$0")/.." && pwd)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)
case $(uname -s) in Darwin) os=macos ;; *) os=$(uname -s | tr '[:upper:]' '[:lower:]') ;; esac
name=mlxrt-$version-$os-$(uname -m)
if [ "${MLX:-cpu}" = cuda ]; then
  kind=$(basename "${MLX_CUDA_WHEEL:-}"/mlx_cuda*.dist-info)
  case ${MLX_CUDA_WHEEL:-} in *.whl) kind=$(basename "$MLX_CUDA_WHEEL") ;; esac
  name=$name-$(printf '%s' "$kind" | sed -n 's/^mlx_\(cuda\)_\([0-9]*\)-.*/\1\2/p')
  case $name in *-cuda[0-9]*) ;; *) echo "dist.sh: MLX_CUDA_WHEEL is no mlx_cuda wheel" >&2; exit 1 ;; esac
fi

mkdir -p "$out"
stage=$out/$name
rm -rf "$stage" "$out/$name.tar.gz" "$out/$name.tar.gz.sha256"
DESTDIR=$(cd "$out" && pwd) sh "$root/scripts/install.sh" "$lib" "/$name"
cp "$root/scripts/install/ARCHIVE.md" "$stage/README.md"
if [ "${MLX:-cpu}" = cuda ]; then cat "$root/scripts/install/ARCHIVE-cuda.md" >>"$stage/README.md"; fi

epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}
python3 - "$stage" "$out/$name.tar.gz" "$epoch" <<'PYTHON'
import gzip, hashlib, pathlib, sys, tarfile

stage, archive, epoch = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])

def plain(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = epoch
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry

with archive.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as packed:
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted([stage, *stage.rglob("*")]):
            tar.add(path, path.relative_to(stage.parent), recursive=False, filter=plain)
digest = hashlib.sha256(archive.read_bytes()).hexdigest()
archive.with_name(archive.name + ".sha256").write_text(f"{digest}  {archive.name}\n")
print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, sha256 {digest}")
PYTHON
rm -rf "$stage"
