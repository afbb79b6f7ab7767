"""Whether what the library calls an answer of a schema is one, by the package jsonschema.

    python check.py LIBRARY [--samples N] [--suite FOLDER]      # needs jsonschema; LIBRARY: libmlxrt.so

For each schema of schemas.json: N answers of a fixture with random weights, half of them sampled at temperature 1.5, which leave
nothing out that the grammar allows; every answer that came to its end is JSON, and valid. With --suite, the same for the groups of
the official test suite (https://github.com/json-schema-org/JSON-Schema-Test-Suite) for drafts 4 to 2020-12: what compiles gives
valid documents only, and what does not is refused as BAD_GRAMMAR with a keyword's place. Prints what was refused, by keyword.
What came out is in RESULTS.md.
"""

import argparse
import collections
import ctypes
import json
import re
import sys
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from decimal import Decimal
from pathlib import Path

sys.dont_write_bytecode = True
import jsonschema

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "fixtures/models/qwen3-f32"
BAD_GRAMMAR, JSON_SCHEMA = 16, 2
ENDED = {1, 10}  # by the end of text, by the grammar
NO_MODEL_DEFAULTS = 32


class Input(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("flags", c_uint32), ("text", c_char_p), ("text_len", c_size_t), ("rest", c_size_t * 8)]


class Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("max_tokens", c_uint32), ("timeout_ms", c_uint32),
        ("temperature", c_float), ("top_p", c_float), ("min_p", c_float), ("top_k", c_int32),
        ("xtc_probability", c_float), ("xtc_threshold", c_float), ("repetition_penalty", c_float),
        ("presence_penalty", c_float), ("frequency_penalty", c_float), ("penalty_window", c_uint32), ("seed", c_uint64),
        ("top_logprobs", c_uint32), ("thinking_budget", c_int32), ("lists", c_size_t * 8), ("grammar", c_void_p),
        ("progress_tokens", c_uint32), ("draft_tokens", c_int32), ("notify", c_size_t * 2),
    ]  # fmt: skip


class Event(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("kind", c_int32), ("text", c_void_p), ("text_len", c_size_t)]


class Result(ctypes.Structure):
    _fields_ = [("struct_size", c_uint32), ("stop", c_int32), ("rest", c_uint64 * 16)]


ON_EVENT = ctypes.CFUNCTYPE(c_int32, c_void_p, POINTER(Event))


class Library:
    def __init__(self, path):
        self.lib = lib = ctypes.CDLL(path)
        lib.mlxrt_error_message.restype = c_char_p
        lib.mlxrt_error_message.argtypes = lib.mlxrt_error_code.argtypes = lib.mlxrt_error_free.argtypes = [c_void_p]
        for name, arguments in {
            "model_load": [c_char_p, c_void_p, c_void_p],
            "session_create": [c_void_p, c_void_p, c_void_p],
            "grammar_compile": [c_void_p, c_int32, c_char_p, c_size_t, c_void_p, c_void_p],
            "generate": [c_void_p, c_void_p, c_void_p, ON_EVENT, c_void_p, c_void_p],
        }.items():
            function = getattr(lib, f"mlxrt_{name}")
            function.restype, function.argtypes = c_void_p, arguments
        lib.mlxrt_session_free.argtypes = lib.mlxrt_grammar_free.argtypes = [c_void_p]
        self.model = c_void_p()
        assert self.failed(lib.mlxrt_model_load(str(MODEL).encode(), None, byref(self.model))) is None

    def failed(self, error):
        """Code and message; None for success."""
        if not error:
            return None
        told = self.lib.mlxrt_error_code(error), self.lib.mlxrt_error_message(error).decode()
        self.lib.mlxrt_error_free(error)
        return told

    def compile(self, schema):
        source, grammar = json.dumps(schema).encode(), c_void_p()
        failed = self.failed(self.lib.mlxrt_grammar_compile(self.model, JSON_SCHEMA, source, len(source), None, byref(grammar)))
        return grammar, failed

    def answer(self, grammar, seed):
        """The text, and whether it came to its end."""
        session, parts = c_void_p(), []

        def on_event(_, event):
            parts.append(ctypes.string_at(event.contents.text, event.contents.text_len))
            return 0

        assert self.failed(self.lib.mlxrt_session_create(self.model, None, byref(session))) is None
        given, how, result = Input(), Options(), Result()
        given.struct_size, given.text, given.text_len = ctypes.sizeof(given), b"The answer is ", 14
        how.struct_size, how.flags, how.max_tokens, how.grammar = ctypes.sizeof(how), NO_MODEL_DEFAULTS, 300, grammar
        how.temperature, how.seed = (1.5 if seed % 2 else 8.0), seed
        result.struct_size = ctypes.sizeof(result)
        failed = self.failed(self.lib.mlxrt_generate(session, byref(given), byref(how), ON_EVENT(on_event), None, byref(result)))
        self.lib.mlxrt_session_free(session)
        return b"".join(parts), result.stop in ENDED, failed


# (Of every draft: what is followed here are the newest one's.)
FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


def faults(text, schema, kind):
    """What is wrong with an answer; none where the validator itself cannot look."""
    document = json.loads(text)
    try:
        found = [error.message for error in kind(schema, format_checker=FORMATS).iter_errors(document)]
        if found and "multipleOf" in json.dumps(schema):
            # 0.07 is a multiple of 0.01, and not in binary.
            exact = json.loads(json.dumps(schema), parse_float=Decimal)
            document = json.loads(text, parse_float=Decimal)
            found = [error.message for error in kind(exact, format_checker=FORMATS).iter_errors(document)]
    except re.error:
        # Python's expressions have no \p.
        return []
    return found


def check(library, name, schema, kind, samples, count):
    """What is wrong with the answers of a schema; None where it is refused."""
    grammar, failed = library.compile(schema)
    if failed and "no token of the model can go on" in failed[1]:
        # The fixture has no bytes for some characters that a schema may force.
        count["cannot be written"] += 1
        return []
    if failed:
        count["refused"][failed[1].split(":")[0].strip('"').rsplit("/", 1)[-1]] += 1
        named = failed[0] == BAD_GRAMMAR and failed[1].startswith('"#')
        return None if named else [f"{name}: {failed}"]
    count["compiled"] += 1
    wrong = []
    for seed in range(1, samples + 1):
        text, ended, failed = library.answer(grammar, seed)
        if failed:
            count["cannot be written"] += 1
            if failed[0] != BAD_GRAMMAR:
                wrong.append(f"{name}, seed {seed}: {failed}")
            continue
        if not ended:
            count["cut"] += 1
            continue
        count["answers"] += 1
        try:
            errors = faults(text, schema, kind)
        except ValueError as error:
            errors = [str(error)]
        if errors:
            wrong.append(f"{name}, seed {seed}: {text.decode(errors='replace')[:200]}: {errors[0][:200]}")
    library.lib.mlxrt_grammar_free(grammar)
    return wrong


DRAFTS = {
    "draft4": ("http://json-schema.org/draft-04/schema#", jsonschema.Draft4Validator),
    "draft6": ("http://json-schema.org/draft-06/schema#", jsonschema.Draft6Validator),
    "draft7": ("http://json-schema.org/draft-07/schema#", jsonschema.Draft7Validator),
    "draft2019-09": ("https://json-schema.org/draft/2019-09/schema", jsonschema.Draft201909Validator),
    "draft2020-12": ("https://json-schema.org/draft/2020-12/schema", jsonschema.Draft202012Validator),
}


def suite(folder):
    """Name, schema and kind of validator of each group."""
    for draft, (uri, validator) in DRAFTS.items():
        files = sorted((folder / "tests" / draft).glob("*.json"))
        assert files, f"{folder} has no tests/{draft}"
        for file in files:
            for group in json.loads(file.read_text()):
                schema = group["schema"]
                if isinstance(schema, dict) and "$schema" not in schema:
                    schema = {"$schema": uri, **schema}
                yield f"{draft}/{file.stem}: {group['description']}", schema, validator


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("library")
    arguments.add_argument("--samples", type=int, default=200)
    arguments.add_argument("--suite", type=Path)
    arguments = arguments.parse_args()
    library = Library(arguments.library)
    count = collections.Counter()
    count["refused"] = collections.Counter()
    wrong = []
    for case in json.loads((HERE / "schemas.json").read_text())["compile"]:
        schema = case["schema"]
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        found = check(library, case["name"], schema, kind, arguments.samples, count)
        wrong += [f"{case['name']} is refused"] if found is None else found
    print("schemas.json:", {key: value for key, value in count.items() if key != "refused"})
    if arguments.suite:
        count = collections.Counter()
        count["refused"] = collections.Counter()
        for name, schema, kind in suite(arguments.suite):
            wrong += check(library, name, schema, kind, max(arguments.samples // 10, 4), count) or []
        print("the official suite:", {key: value for key, value in count.items() if key != "refused"})
        print("  refused:", dict(count["refused"].most_common()))
    for line in wrong:
        print("wrong:", line)
    print(f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
