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
# With jinja2 and transformers, for `make differential`; with mlx-lm, for `make check-saved`.
PYTHON ?= python3
SEED ?= 9
COUNT ?= 2600
# Answers of each schema, and the official test suite, for `make check-grammars`.
SAMPLES ?= 200
SUITE ?=
# A folder of chat templates (*.jinja), for `make differential`.
TEMPLATES ?=

# For `make install`; DESTDIR goes in front of it. For `make dist`: MLX=cuda MLX_CUDA_WHEEL=<wheel>.
PREFIX ?= /usr/local
MLX ?= cpu
export MLX MLX_CUDA_WHEEL
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml | head -1)

.PHONY: test-kernels build ship install dist xcframework demo test test-scripts test-rust test-c check-saved check-grammars test-cpp test-install test-docs docs parity parity-fresh recording check-apple header freeze lint fmt bench bench-cpu bench-hybrids bench-chat bench-kv bench-grammar bench-embed bench-sharing bench-many bench-drafts bench-edits bench-server bench-saving bench-text bench-safety differential fuzz asan tsan miri soak guesses hostile cli cli-docs cli-bindings test-cli test-go test-swift bench-swift bench-adapters install-for-tests bench-kernels test-neon clean

# The parts of `make test`; each is a target of its own, test-PART. What SKIP names is left out.
PARTS := scripts rust c cpp docs cli install go swift
SKIP ?=
RUN := $(filter-out $(SKIP),$(PARTS))

# need-PART: whether what a part needs is there, and as root with apt-get, that it is; see scripts/needs.sh.
NEEDS := need-build $(addprefix need-,$(PARTS))
.PHONY: $(NEEDS)
$(NEEDS): need-%:
	@scripts/needs.sh "$(or $(GOAL),$(firstword $(MAKECMDGOALS)),build)" $*

build: need-build
	$(CARGO) build --release

## build/lib: the library as users get it, with versioned symbols and without debug information; see scripts/ship.sh.
ship: build
	scripts/ship.sh $(LIB) $(BUILD)/lib

## The library, headers, pkg-config and CMake files, documents and licences under PREFIX; see scripts/install.sh.
install: ship cli-docs
	scripts/install.sh $(BUILD)/lib "$(PREFIX)"

## build/dist: the archive for users, and its SHA-256; see scripts/dist.sh.
dist: ship cli-docs
	scripts/dist.sh $(BUILD)/lib $(BUILD)/dist

## Builds what is missing, chats with the demo model once, then swaps its adapters.
demo: build $(BUILD)/chat $(BUILD)/adapters
	@$(BUILD)/chat "$(MODEL)" "$(PROMPT)"
	@echo
	@$(BUILD)/adapters demo/model demo/adapters/pirate demo/adapters/json

# What tests looked for and did not find, a line each; they write it, and make test tells it.
ABSENT := $(CURDIR)/$(BUILD)/absent.txt

## The whole suite, or without some of its parts: make test SKIP="go swift". What was left out is said at the end, and fails
## where CI is set. What did not run since the published test data that it reads is absent (MLXRT_SHARED or ../shared) is said, too.
test: export MLXRT_ABSENT = $(ABSENT)
test:
	$(if $(filter-out $(PARTS),$(SKIP)),$(error SKIP is "$(SKIP)"; it can have $(PARTS)))
	@scripts/needs.sh test build $(RUN)
	@mkdir -p $(BUILD); rm -f $(ABSENT)
	@$(MAKE) --no-print-directory build $(addprefix test-,$(RUN))
	@if [ -z "$(strip $(SKIP))" ] && ! [ -s $(ABSENT) ]; then echo "make test: everything passed"; exit 0; fi; \
	if [ -s $(ABSENT) ]; then echo "make test: not run, or not whole:"; cat $(ABSENT); fi; \
	if [ -z "$(strip $(SKIP))" ]; then echo "make test: everything passed but what is named above"; exit 0; fi; \
	echo "make test: everything passed, without what was skipped: $(strip $(SKIP))"; \
	case "$${CI:-false}" in false | 0) ;; *) echo "make test: in CI nothing may be skipped"; exit 1 ;; esac

## The scripts that everything begins with.
test-scripts:
	tests/scripts/needs.sh

test-rust: build
	$(CARGO) test --release -p mlxrt -p mlxrt-kernels

test-c: need-c build ship
	$(MAKE) -C tests/c LIB=$(CURDIR)/$(LIB) run
	$(MAKE) -C tests/c LIB=$(CURDIR)/$(BUILD)/lib BUILD=$(CURDIR)/$(BUILD)/tests-shipped shipped

## bindings/cpp/mlxrt.hpp, and a host that uses MLX itself.
test-cpp: need-cpp ship
	$(MAKE) -C tests/cpp LIB=$(CURDIR)/$(BUILD)/lib BUILD=$(CURDIR)/$(BUILD)/tests-cpp run

## The archive, unpacked elsewhere and used with an empty environment.
test-install: MLX = cpu
test-install: need-install dist
	tests/install/run.sh $(BUILD)/dist/mlxrt-$(VERSION)-linux-$(shell uname -m).tar.gz

## Every C and C++ block of the documents compiles, docs/abi.md is what the header says, links and pictures are whole.
test-docs: need-docs
	tests/docs/run.sh $(BUILD)/tests-docs

## docs/abi.md out of the header, and docs/models.md out of what the tests find.
docs: need-build
	scripts/abi.py include/mlxrt.h >docs/abi.md
	MLXRT_WRITE_MODELS=1 $(CARGO) test --release --lib models_page

## Logits and tokens of every committed folder against the reference's: writes docs/models.md, and prints its table of families.
parity: need-build
	MLXRT_WRITE_MODELS=1 $(CARGO) test --release --lib models_page
	sed -n '/^## Families/,/^## Embeddings/p' docs/models.md | sed '$$d'

## The same tests on folders of shapes that SEED chooses, made by mlx-lm in the Python given.
parity-fresh: need-build
	$(PYTHON) tests/fixtures/fresh.py $(CURDIR)/$(BUILD)/fresh --seed $(SEED)
	MLXRT_TEST_FRESH=$(CURDIR)/$(BUILD)/fresh $(CARGO) test --release --lib runtime::tests::parity -- --test-threads 1

## docs/pictures/recording.svg: the command line on a terminal, typed and recorded by scripts/recording.py. 45 seconds.
recording: cli
	scripts/recording.py $(BUILD)/bin/mlxrt docs/pictures/recording.svg

# Where the command line finds the library while it is built and tested.
CLI_LIB = $(if $(MLXRT_PREFIX),$(MLXRT_PREFIX),$(CURDIR)/$(BUILD))/lib

## The command line: build/bin/mlxrt, which finds the library in build/lib, or in the prefix that both are put under. With
## MLXRT_PREFIX set to where mlxrt is installed, that library is used and none is built.
cli: $(if $(MLXRT_PREFIX),,ship)
	$(CARGO) build --release -p mlxrt-cli
	@mkdir -p $(BUILD)/bin
	cp $(LIB)/mlxrt $(BUILD)/bin/mlxrt
	strip $(BUILD)/bin/mlxrt

## build/share: the command line's manual pages and completions.
cli-docs: cli
	LD_LIBRARY_PATH=$(CLI_LIB) cli/docs.sh $(BUILD)/bin/mlxrt $(BUILD)/share

test-cli: $(if $(MLXRT_PREFIX),,ship)
	LD_LIBRARY_PATH=$(CLI_LIB) MLXRT_TEST_LIB=$(CLI_LIB) $(CARGO) test --release -p mlxrt-cli

## Writes cli/src/ffi.rs from include/mlxrt.h.
cli-bindings:
	MLXRT_WRITE_BINDINGS=1 $(CARGO) test --release -p mlxrt-cli --test bindings

# Where the suites of the bindings find an installed library.
INSTALLED := $(CURDIR)/$(BUILD)/prefix

install-for-tests:
	$(MAKE) install PREFIX=$(INSTALLED)

## The Go suite against the installed library: tests, the race detector, cgocheck2, and the chat server with OpenAI's client.
## With Go 1.24 or newer, pkg-config, and python3 with venv.
test-go: need-go install-for-tests
	PKG_CONFIG_PATH=$(INSTALLED)/lib/pkgconfig bindings/go/test.sh

## build/dist/CMlxrt.xcframework.zip for macOS, on a Mac; for iOS see scripts/xcframework.sh. Never run.
xcframework: install-for-tests
	scripts/xcframework.sh macos=$(INSTALLED)
	cd bindings/swift && zip -qry $(CURDIR)/$(BUILD)/dist/CMlxrt.xcframework.zip CMlxrt.xcframework

## What an adapter costs in decode, and a swap, on MODEL: the rows of benches/ADAPTERS.md.
bench-adapters: build
	@mkdir -p $(BUILD)
	$(CC) $(CFLAGS) -std=c99 -D_GNU_SOURCE -Wall -Wextra -Werror -Iinclude benches/adapters.c -o $(BUILD)/bench-adapters $(LINK)
	$(BUILD)/bench-adapters "$(MODEL)" 24 5

## The Swift package against the installed library: its suite, the sample with a bridging header, its documentation. Where
## there is no swift, scripts/swift.sh fetches one (2.7 GB, once).
test-swift: need-swift install-for-tests
	MLXRT_PREFIX="$(INSTALLED)" bindings/swift/test.sh

## What needs an NVIDIA GPU: the GPU's own kernels against MLX's operations, and tests that run on either device. MLXRT_MLX_DIR is the
## `mlx` folder of an unpacked CUDA wheel; NVIDIA's libraries are where the loader finds them; PYTHON has mlx-lm.
test-gpu: export MLXRT_TEST_DEVICE = gpu
test-gpu: export MLX_ENABLE_TF32 = 0
test-gpu:
	$(PYTHON) tests/fixtures/steps.py $(CURDIR)/$(BUILD)/steps
	MLXRT_STEP_MODELS=$$(printf '%s:' $(CURDIR)/$(BUILD)/steps/*) \
	$(CARGO) test --release --lib -- steps_are_no_farther adapters_are_parts --ignored --test-threads 1
	$(CARGO) test --release --lib -- sampling:: $(addprefix runtime::tests::,sessions forks windows) --test-threads 1

## Hostile input, every case in a process of its own; see tests/hostile/README.md. Some minutes.
hostile: build
	$(CARGO) test --release --test hostile -- --all --write $(CURDIR)/tests/hostile/RESULTS.md

## Two hundred prompts on each kind of keys and values, with guesses of all kinds and without: the same to the bit. Writes
## tests/guesses/RESULTS.md. Some minutes.
guesses:
	@mkdir -p tests/guesses
	MLXRT_WRITE_GUESSES=$(CURDIR)/tests/guesses/RESULTS.md $(CARGO) test --release --lib -- --ignored --nocapture two_hundred_prompts

## Templates against jinja2, and conversations against transformers, in the Python given: other cases with SEED and COUNT, other
## people's templates with TEMPLATES; writes the Rust tests' fixtures.
differential:
	$(PYTHON) tests/template/differential.py --seed $(SEED) --count $(COUNT)
	$(CARGO) test --release --lib template::tests::differential
	$(PYTHON) tests/template/messages.py
	$(if $(TEMPLATES),$(PYTHON) tests/template/messages.py --templates $(TEMPLATES) --out $(CURDIR)/target/messages.json)
	$(if $(TEMPLATES),MLXRT_MESSAGES=$(CURDIR)/target/messages.json) $(CARGO) test --release --lib text::tests::messages

## Whether mlx-lm, in the Python given, loads the adapters and the fused models that the library saves.
check-saved: build
	$(PYTHON) tests/fixtures/saved_check.py $(CURDIR)/$(LIB)/libmlxrt.so

## Answers of random weights under schemas, in the Python given, which has jsonschema; with SUITE, a checkout of
## https://github.com/json-schema-org/JSON-Schema-Test-Suite, its groups and its documents as well: tests/grammar/RESULTS.md.
check-grammars: build
	$(PYTHON) tests/grammar/check.py $(CURDIR)/$(LIB)/libmlxrt.so --samples $(SAMPLES) $(if $(SUITE),--suite "$(SUITE)")
	$(if $(SUITE),MLXRT_SUITE="$(SUITE)" $(CARGO) test --release --lib -- --nocapture grammar::tests::suite)

## Type-checks the macOS side on Linux. Nothing of it is run.
check-apple:
	scripts/check-apple.sh

## Whether the kernels for NVIDIA GPUs compile, by NVRTC from PyPI. Nothing of them is run: make test-gpu does that.
check-kernels:
	$(PYTHON) scripts/check-kernels.py $(BUILD)/nvrtc

## The same kernels on a processor, where a block's threads take turns, against plain loops: what they compute, not how blocks meet.
test-kernels: need-cpp
	@mkdir -p $(BUILD)
	$(CXX) -std=c++20 -O2 -Wall -Wno-sign-compare -Wno-unknown-pragmas -Isrc/mlx/gpu/kernels tests/kernels/kernels.cpp -o $(BUILD)/kernels
	$(BUILD)/kernels

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
	$(CARGO) fmt -p mlxrt -p mlxrt-kernels --check
	$(CARGO) fmt -p mlxrt-cli --check
	$(CARGO) clippy --release --all-targets -p mlxrt -p mlxrt-kernels -- -D warnings
	$(CARGO) clippy --release --all-targets -p mlxrt-cli -- -D warnings
	cd fuzz && RUSTC_BOOTSTRAP=1 $(CARGO) check --release
	cd tests/miri && $(CARGO) check --tests

fmt:
	$(CARGO) fmt -p mlxrt -p mlxrt-kernels
	$(CARGO) fmt -p mlxrt-cli

## Side by side with mlx-lm; see benches/README.md.
bench: build
	benches/run.sh
	$(MAKE) bench-text
	$(MAKE) bench-safety

## A model with states on the CPU: rates, and a chat of ten turns. Writes benches/HYBRIDS.md.
bench-hybrids: build
	benches/hybrids.sh

## 1,000 short texts embedded, beside sentence-transformers (PYTHON=...): the rows of benches/EMBED.md.
bench-embed: build
	benches/embed.sh

## On an NVIDIA GPU beside mlx-lm: rates of models of real shapes, and sessions at once. Writes benches/GPU.md.
bench-gpu:
	benches/gpu.sh

## Forks, and many sessions with one beginning. Writes benches/SHARING.md.
bench-sharing: build
	benches/sharing.sh

## Many sessions at once, beside llama.cpp, mlx-lm and, in MLXRT_BENCH_BEFORE, an older library. Writes benches/MANY.md.
bench-many: build
	benches/many.sh

## Guesses of a draft model beside those from the text and none. Writes benches/DRAFTS.md.
bench-drafts: cli
	benches/drafts.sh --write benches/DRAFTS.md

## Guesses from the text where code, JSON and prose are edited. Writes benches/EDITS.md.
bench-edits: cli
	benches/edits.sh --write benches/EDITS.md

## The Go chat server under 1 to 20 clients. Writes benches/SERVER.md.
bench-server: install-for-tests
	PKG_CONFIG_PATH=$(INSTALLED)/lib/pkgconfig benches/server.sh --write benches/SERVER.md

## A chat of ten turns beside mlx-lm with its prompt cache. Writes benches/CHAT.md.
bench-chat: build
	benches/chat.sh

## Decoding over quantised keys and values, beside those of the model's type. Writes benches/KV.md.
bench-kv: build
	benches/kv.sh

## Answers under grammars beside answers without, and what compiling takes: the rows of benches/GRAMMAR.md.
bench-grammar: build
	benches/grammar.sh

## Sessions to files and back, beside the disk and beside computing them. Writes benches/SAVING.md.
bench-saving: build
	benches/saving.sh

## The CPU's kernels beside llama.cpp, mlx-lm and the memory's reading speed; builds llama.cpp the first time.
bench-cpu: build
	benches/cpu.sh

## Templates, streaming and tokenising beside minijinja, jinja2 and the tokenizers crate; needs no MLX.
bench-text:
	benches/text.sh

## Nanoseconds of a handle, microseconds of a token between threads.
bench-safety: build
	benches/safety.sh

## What a token costs more through the Swift package than through bare C.
bench-swift: install-for-tests
	MLXRT_PREFIX="$(INSTALLED)" benches/swift.sh

## Random input, SECONDS for each target; see fuzz/README.md. Not part of `make test`.
fuzz: SECONDS ?= 60
fuzz: TARGETS ?= config generation_config index safetensors_header messages template tokenizer_json api
fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	for target in $(TARGETS); do \
		crate=fuzz; limits="-rss_limit_mb=1024 -timeout=5 -max_len=4096"; \
		case $$target in \
			api) crate=fuzz/api; limits="-rss_limit_mb=4096 -timeout=20 -max_len=512" ;; \
			config) crate=fuzz/api; limits="-rss_limit_mb=4096 -timeout=20 -max_len=4096" ;; \
		esac; \
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
soak: CYCLES ?= 3000
soak: TOKENS ?= 300000
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
	$(CC) $(CFLAGS) $(WARNINGS) -Iinclude $< -o $@ $(LINK) -lm

clean:
	rm -rf $(BUILD)
	$(CARGO) clean
