# Sets $llama, a Python that has llama-cpp-python, gguf and numpy; run in the repository's root. Builds llama.cpp from source the first
# time. MLXRT_LLAMA_PYTHON: such a Python that is there. MLXRT_LLAMA_AMX=off builds llama.cpp without AMX, for machines where its AMX
# build crashes.
llama=${MLXRT_LLAMA_PYTHON:-}
if [ -z "$llama" ]; then
  venv=build/llama-venv
  packages="llama-cpp-python==0.3.36 gguf==0.19.0"
  flags="-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
  if [ "${MLXRT_LLAMA_AMX:-on}" = off ]; then
    amx="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    flags="$flags '-DCMAKE_C_FLAGS=$amx' '-DCMAKE_CXX_FLAGS=$amx'"
  fi
  llama=$venv/bin/python
  if [ "$(cat $venv/packages 2>/dev/null || true)" != "$packages $flags" ]; then
    echo "building llama.cpp into $venv (20 minutes on two cores)"
    python3 -m venv $venv
    # No cache: it would give the wheel that was built with other flags.
    # shellcheck disable=SC2086
    CMAKE_ARGS="$flags" $llama -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-binary llama-cpp-python --force-reinstall $packages
    echo "$packages $flags" > $venv/packages
  fi
fi
