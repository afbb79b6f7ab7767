"""Quantises what train.py wrote into demo/model, in mlx-lm's format, with mlx-lm.

    python3 convert.py --from build [--to model]

Linear layers get 4 bits in groups of 64, the embedding (it is the output layer too) gets 8.
"""

import argparse
import json
import shutil
from pathlib import Path

from mlx_lm.utils import load_model, quantize_model, save_model

KEPT = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
EMBEDDING = {"group_size": 64, "bits": 8}
LIMIT = 8_000_000


def predicate(path, module):
    if not hasattr(module, "to_quantized"):
        return False
    return EMBEDDING if "embed_tokens" in path else True


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--from", dest="source", required=True, help="the folder that train.py wrote")
    p.add_argument("--to", default=str(Path(__file__).parent / "model"))
    args = p.parse_args()
    source, to = Path(args.source), Path(args.to)
    model, config = load_model(source, lazy=True)
    model, config = quantize_model(model, config, group_size=64, bits=4, quant_predicate=predicate)
    to.mkdir(parents=True, exist_ok=True)
    save_model(to, model, donate_model=True)
    # One file: an index has nothing to add.
    (to / "model.safetensors.index.json").unlink(missing_ok=True)
    config.pop("quantization_config", None)
    (to / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in KEPT:
        shutil.copyfile(source / name, to / name)
    size = sum(f.stat().st_size for f in to.iterdir())
    print(f"{to}: {size} bytes in {len(list(to.iterdir()))} files")
    assert size <= LIMIT, f"the folder must not exceed {LIMIT} bytes"


if __name__ == "__main__":
    main()
