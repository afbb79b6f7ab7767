# mlxrt: what a person and CI run. `make demo` and `make test` are the two to know.

CARGO ?= cargo
CC ?= cc
BUILD := build
LIB := target/release
CFLAGS ?= -O2
WARNINGS := -std=c99 -Wall -Wextra -Wpedantic -Werror
# Finds the library where cargo puts it.
LINK := -L$(LIB) -lmlxrt -Wl,-rpath,$(CURDIR)/$(LIB)

PROMPT ?= Tell me a short story about a fox.
MODEL ?= demo/model
# With jinja2 and transformers, for `make differential`.
PYTHON ?= python3
SEED ?= 9
COUNT ?= 2600

.PHONY: build demo test test-rust test-c test-neon bench-kernels check-apple header lint fmt bench bench-text differential fuzz clean

build:
	$(CARGO) build --release

## Builds what is missing, then chats with the demo model once.
demo: build $(BUILD)/chat
	@$(BUILD)/chat "$(MODEL)" "$(PROMPT)"

## The whole suite.
test: build test-rust test-c
	@echo "make test: everything passed"

test-rust:
	$(CARGO) test --release

test-c: build
	$(MAKE) -C tests/c LIB=$(CURDIR)/$(LIB) run

## Templates against jinja2, in the Python given: other cases with SEED and COUNT; writes the Rust test's fixture.
differential:
	$(PYTHON) tests/template/differential.py --seed $(SEED) --count $(COUNT)
	$(CARGO) test --release --lib template::tests::differential

## Type-checks the macOS side on Linux. Nothing of it is run.
check-apple:
	scripts/check-apple.sh

## The CPU kernels for aarch64 under qemu-user. Not part of `make test`.
test-neon:
	scripts/test-neon.sh

## How near the CPU kernels come to this machine's limits: MLXRT_THREADS, MLXRT_PATHS.
bench-kernels:
	$(CARGO) bench --bench kernels

## Writes include/mlxrt.h from src/capi.
header:
	MLXRT_WRITE_HEADER=1 $(CARGO) test --release --test header committed

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

fmt:
	$(CARGO) fmt

## Side by side with mlx-lm; see benches/README.md.
bench: build
	benches/run.sh
	$(MAKE) bench-text

## Templates, streaming and tokenising beside minijinja, jinja2 and the tokenizers crate; needs no MLX.
bench-text:
	benches/text.sh

## Random templates and tokenizer files, SECONDS of each; see fuzz/README.md. Not part of `make test`.
fuzz: SECONDS ?= 60
fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	for target in template tokenizer_json; do \
		mkdir -p fuzz/found/$$target && \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -rss_limit_mb=1024 -timeout=5 -max_len=4096 \
			-dict=fuzz/$$target.dict -print_final_stats=1 || exit 1; \
	done

$(BUILD)/%: bindings/c/examples/%.c include/mlxrt.h | build
	@mkdir -p $(BUILD)
	$(CC) $(CFLAGS) $(WARNINGS) -Iinclude $< -o $@ $(LINK)

clean:
	rm -rf $(BUILD)
	$(CARGO) clean
