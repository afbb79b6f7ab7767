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

.PHONY: build ship demo test test-rust test-c check-apple header freeze lint fmt bench bench-text bench-safety differential fuzz asan tsan miri soak hostile bench-kernels test-neon clean

build:
	$(CARGO) build --release

## build/lib: the library as users get it, with versioned symbols and without debug information; see scripts/ship.sh.
ship: build
	scripts/ship.sh $(LIB) $(BUILD)/lib

## Builds what is missing, then chats with the demo model once.
demo: build $(BUILD)/chat
	@$(BUILD)/chat "$(MODEL)" "$(PROMPT)"

## The whole suite.
test: build test-rust test-c
	@echo "make test: everything passed"

test-rust: build
	$(CARGO) test --release

test-c: build ship
	$(MAKE) -C tests/c LIB=$(CURDIR)/$(LIB) run
	$(MAKE) -C tests/c LIB=$(CURDIR)/$(BUILD)/lib BUILD=$(CURDIR)/$(BUILD)/tests-shipped shipped

## Hostile input, every case in a process of its own; see tests/hostile/README.md. Some minutes.
hostile: build
	$(CARGO) test --release --test hostile -- --all --write $(CURDIR)/tests/hostile/RESULTS.md

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

## Writes include/mlxrt.h and src/capi/exports.map from src/capi.
header:
	MLXRT_WRITE_HEADER=1 $(CARGO) test --release --test header committed

## Renews the frozen header of version 1, tests/abi/1/mlxrt.h, as long as version 1 is not released. Its client.c must
## call what came in.
freeze: header
	@grep -q '^## 0\.1\.0 (unreleased)' CHANGELOG.md || { echo "version 1 is released: its header stays"; exit 1; }
	cp include/mlxrt.h tests/abi/1/mlxrt.h

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

fmt:
	$(CARGO) fmt

## Side by side with mlx-lm; see benches/README.md.
bench: build
	benches/run.sh
	$(MAKE) bench-text
	$(MAKE) bench-safety

## Templates, streaming and tokenising beside minijinja, jinja2 and the tokenizers crate; needs no MLX.
bench-text:
	benches/text.sh

## Nanoseconds of a handle, microseconds of a token between threads.
bench-safety: build
	benches/safety.sh

## Random input, SECONDS for each target; see fuzz/README.md. Not part of `make test`.
fuzz: SECONDS ?= 60
fuzz: TARGETS ?= config generation_config index safetensors_header messages template tokenizer_json api
fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	for target in $(TARGETS); do \
		crate=fuzz; limits="-rss_limit_mb=1024 -timeout=5 -max_len=4096"; \
		if [ $$target = api ]; then crate=fuzz/api; limits="-rss_limit_mb=4096 -timeout=20 -max_len=512"; fi; \
		if [ -f fuzz/$$target.dict ]; then limits="$$limits -dict=fuzz/$$target.dict"; fi; \
		mkdir -p fuzz/found/$$target && \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir $$crate $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) $$limits -print_final_stats=1 || exit 1; \
		rm -rf fuzz/scratch; \
	done

## The C suite and the Rust tests under AddressSanitizer with LeakSanitizer, and under ThreadSanitizer; see
## tests/sanitizers/README.md.
asan:
	tests/sanitizers/run.sh address

tsan:
	tests/sanitizers/run.sh thread

## A long life of one process: CYCLES models loaded and unloaded, TOKENS in all. Writes tests/soak/RESULTS.md.
soak: CYCLES ?= 1000
soak: TOKENS ?= 100000
soak: build
	@mkdir -p $(BUILD)
	$(CC) $(CFLAGS) -std=gnu99 -Wall -Wextra -Wpedantic -Werror -Iinclude -Itests/c \
		'-DFIXTURES="$(CURDIR)/tests/fixtures/models"' tests/soak/soak.c -o $(BUILD)/soak $(LINK) -lpthread -lm
	$(BUILD)/soak $(CYCLES) $(TOKENS) $(SEED) >$(BUILD)/soak.md; status=$$?; cat $(BUILD)/soak.md; \
		if [ $(CYCLES) -ge 1000 ]; then cp $(BUILD)/soak.md tests/soak/RESULTS.md; fi; exit $$status

## The handle table, structs between versions, text in and out, and the log under Miri, which needs a nightly toolchain:
## rustup toolchain install nightly --component miri --component rust-src
miri: NIGHTLY ?= nightly
miri:
	cd tests/miri && $(CARGO) +$(NIGHTLY) miri test --lib

$(BUILD)/%: bindings/c/examples/%.c include/mlxrt.h | build
	@mkdir -p $(BUILD)
	$(CC) $(CFLAGS) $(WARNINGS) -Iinclude $< -o $@ $(LINK)

clean:
	rm -rf $(BUILD)
	$(CARGO) clean
