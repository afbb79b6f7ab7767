# Sets $lib, where the library is, and $shape, Qwen3-0.6B's shape with random weights in 4 bits, which is made the first time; run in the
# repository's root.
lib=${MLXRT_LIB:-target/release}
lib=$(cd "$lib" && pwd)
shape=build/bench-models/qwen3-0.6b-4bit
if [ ! -d $shape ]; then
  . benches/python.sh
  mkdir -p build/bench-models
  "$python" benches/make_model.py $shape
fi
