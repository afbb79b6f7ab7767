#!/bin/sh
# install.sh LIB PREFIX: puts what users need under $DESTDIR$PREFIX: the library that ship.sh linked into LIB, MLX beside
# it, the command line, headers, pkg-config, CMake, documents and licences. Nothing in it knows where it lies, so it may be moved.
#
#   MLX=cpu    (default) the MLX that ship.sh put into LIB
#   MLX=cuda   the libmlx.so and headers of MLX_CUDA_WHEEL, an unpacked mlx-cuda wheel of the same version or its .whl file;
#              NVIDIA's own libraries are not copied: docs/embedding.md says where they have to be
#
# The macOS branches were written without a Mac and were never run.
set -eu
lib=$1 prefix=$2
root=$(cd "$(dirname "$0")/.." && pwd)
here=$root/scripts/install
to=${DESTDIR:-}$prefix
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -1)

fail() { echo "install.sh: $*" >&2; exit 1; }
case $prefix in /*) ;; *) fail "PREFIX is $prefix; it must start with /" ;; esac
put() { # MODE FILE FOLDER [NAME]
  mkdir -p "$to/$3"
  rm -f "$to/$3/${4:-$(basename "$2")}"
  cp "$2" "$to/$3/${4:-$(basename "$2")}"
  chmod "$1" "$to/$3/${4:-$(basename "$2")}"
}

case $(uname -s) in
  Darwin) library=libmlxrt.dylib soname=@rpath/libmlxrt.dylib ;;
  *) library=libmlxrt.so.1 soname=libmlxrt.so.1 ;;
esac
[ -e "$lib/$library" ] || fail "$lib/$library is missing; run make ship first"
[ -e "$root/build/bin/mlxrt" ] || fail "build/bin/mlxrt is missing; run make cli-docs first"

# ---- MLX: which one, and whose licences ----
mlx=${MLX:-cpu}
case $mlx in
  cpu)
    [ -z "${MLXRT_MLX_DIR:-}" ] || fail "MLXRT_MLX_DIR is set, so the library looks for MLX there; unset it and build again"
    if [ "$(uname -s)" = Darwin ]; then from=; else from=$("$root/scripts/mlx-wheel.sh" "$lib"); fi
    ;;
  cuda)
    from=${MLX_CUDA_WHEEL:-}
    [ -n "$from" ] || fail "MLX=cuda needs MLX_CUDA_WHEEL, an unpacked mlx-cuda wheel or its .whl file (pip download --no-deps mlx-cuda-13)"
    case $from in
      *.whl)
        rm -rf "$root/build/cuda-wheel"
        python3 -m zipfile -e "$from" "$root/build/cuda-wheel"
        from=$root/build/cuda-wheel
        ;;
    esac
    [ -e "$from/mlx/lib/libmlx.so" ] || fail "$from has no mlx/lib/libmlx.so"
    ;;
  *) fail "MLX is $mlx; it can be cpu or cuda" ;;
esac
wheel=
if [ -n "$from" ]; then
  for folder in "$from"/mlx*.dist-info; do wheel=$folder; done
  [ -d "$wheel" ] || fail "$from has no dist-info folder"
fi
if [ "$mlx" = cuda ]; then
  built=$(sed -n 's/^mlx-cpu==\([0-9.]*\).*/\1/p' "$root/mlx-sys-linux/mlx.txt")
  case $(basename "$wheel") in
    *-"$built".dist-info) ;;
    *) fail "$(basename "$wheel") is another version than the MLX $built that the library is built for" ;;
  esac
fi

# ---- The library ----
# An MLX that is there without mlxrt is somebody else's.
if [ -e "$to/lib/libmlx.so" ] && [ ! -e "$to/lib/$library" ]; then
  fail "$to/lib/libmlx.so is there and was not put there by mlxrt; choose a PREFIX of its own, such as /opt/mlxrt"
fi
put 755 "$lib/$library" lib
if [ "$(uname -s)" = Darwin ]; then
  put 644 "$lib/mlx.metallib" lib
else
  ln -sf libmlxrt.so.1 "$to/lib/libmlxrt.so"
  if [ "$mlx" = cuda ]; then
    put 755 "$from/mlx/lib/libmlx.so" lib
    for file in "$from"/mlx_cuda*.libs/*; do put 755 "$file" lib; done
    # Kernels are compiled while a program runs, against headers that libmlx.so looks for in ../include.
    mkdir -p "$to/include"
    for folder in cccl cute cutlass; do
      [ -d "$from/mlx/include/$folder" ] || continue
      rm -rf "$to/include/$folder"
      cp -R "$from/mlx/include/$folder" "$to/include/$folder"
    done
  else
    for file in "$lib"/libmlx.so "$lib"/lib*-[0-9a-f]*.so.*; do put 755 "$file" lib; done
  fi
fi

# ---- The command line, its manual and completions ----
put 755 "$root/build/bin/mlxrt" bin
(cd "$root/build/share" && find . -type f) | while read -r file; do
  put 644 "$root/build/share/$file" "share/$(dirname "$file")"
done

# ---- Headers, pkg-config, CMake ----
put 644 "$root/include/mlxrt.h" include
[ ! -e "$root/bindings/cpp/mlxrt.hpp" ] || put 644 "$root/bindings/cpp/mlxrt.hpp" include
# A folder that many share can have only one module map: another's is left alone.
if [ ! -e "$to/include/module.modulemap" ] || grep -q 'module CMlxrt ' "$to/include/module.modulemap"; then
  put 644 "$here/module.modulemap" include
else
  echo "install.sh: $to/include/module.modulemap is another library's and stays; for Swift, use a PREFIX of its own"
fi
fill() { # TEMPLATE FOLDER
  mkdir -p "$to/$2"
  sed "s|@VERSION@|$version|;s|@LIBRARY@|$library|;s|@SONAME@|$soname|" "$here/$1" >"$to/$2/$1"
  chmod 644 "$to/$2/$1"
}
fill mlxrt.pc lib/pkgconfig
fill mlxrtConfig.cmake lib/cmake/mlxrt
fill mlxrtConfigVersion.cmake lib/cmake/mlxrt

# ---- Documents, examples, licences ----
python3 "$here/documents.py" "$root" "$to/share/doc/mlxrt"
python3 "$root/scripts/licenses.py" "$root/build/licenses" ${wheel:+--wheel "$wheel"}
for file in "$root"/build/licenses/*; do put 644 "$file" share/licenses/mlxrt; done

echo "mlxrt $version with MLX for $mlx is in $to"
