#!/bin/sh
# The ids in added_tokens_decoder do not count.
#
# Expectation: a tokenizer_config.json whose added_tokens_decoder says {"10": {"content": "<x>"}} gives "<x>" the id 10.
# What happens (transformers 5.24.0, tokenizers 0.23.2, 2026-11-29): it gives it the next free id of tokenizer.json, here 3, and says
# nothing. The keys only decide the order in which tokens are added. A model that was trained with the written id then reads
# another token's embedding; where there are gaps on purpose, every later token moves.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder/packages" transformers==5.24.0 tokenizers==0.23.2 2>/dev/null
mkdir "$folder/model"
cat >"$folder/model/tokenizer.json" <<'JSON'
{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
 "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
 "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2}}}
JSON
cat >"$folder/model/tokenizer_config.json" <<'JSON'
{"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {"10": {"content": "<x>", "lstrip": false,
 "rstrip": false, "normalized": false, "single_word": false, "special": true}}}
JSON
seen=$(PYTHONPATH="$folder/packages" TRANSFORMERS_VERBOSITY=error python3 -c "
from transformers import AutoTokenizer
print(AutoTokenizer.from_pretrained('$folder/model').encode('a <x>'))" 2>/dev/null)
echo "added_tokens_decoder says 10; 'a <x>' becomes $seen"
[ "$seen" = "[1, 3]" ]
