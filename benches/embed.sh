#!/bin/sh
# 1,000 short texts embedded, beside sentence-transformers: the rows of benches/EMBED.md. Needs a Python with torch, transformers
# and sentence-transformers: PYTHON=…
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
threads=${THREADS:-2}
work=${WORK:-build/embed}
lib=${LIB:-target/release}
mkdir -p "$work"
${CC:-cc} -O2 -std=c99 -Wall -Wextra -Werror -Iinclude benches/embed.c -o "$work/embed" -L"$lib" -lmlxrt "-Wl,-rpath,$(cd "$lib" && pwd)"
[ -f "$work/bert-base/texts.txt" ] || "$python" benches/embed.py make "$work/bert-base"
for model in bert-base bert-base-bf16; do
  folder=$work/$model
  echo "$model, $threads threads, texts a second"
  echo "mlxrt: $("$work/embed" "$folder" "$folder/texts.txt" "$threads" 3 "$work/own.f32" | tail -1)"
  echo "sentence-transformers: $(OMP_NUM_THREADS=$threads "$python" benches/embed.py run "$folder" "$threads" 3 "$work/theirs.f32" 2>/dev/null | tail -1)"
done
