# The two commands: `make demo` and `make test`. Both install what is missing, build, and run. See README.md.
BUILD ?= build/release
JOBS ?= $(shell nproc)
# What the demo reads; give your own with `make demo MODEL=path TEXT=path`.
MODEL ?=
TEXT ?=

.PHONY: all setup setup-train build demo test asan tsan tidy format fuzz clean

all: build

setup:
	@scripts/setup.sh

# What `mneme train` and `mneme adapt` need beside that: heavy, so on request only.
setup-train:
	@scripts/setup.sh --train

build: setup
	@cmake --preset release -B $(BUILD) $(CMAKE_ARGS) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

demo: setup
	@cmake --preset release -B $(BUILD) $(CMAKE_ARGS) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target mneme
	@MNEME=$(BUILD)/src/cli/mneme MODEL="$(MODEL)" TEXT="$(TEXT)" scripts/demo.sh

test: build
	@ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure

# Every test under the address and undefined-behaviour sanitizers, and under the thread sanitizer.
asan tsan: setup
	@cmake --preset $@ >/dev/null
	@cmake --build build/$@ -j $(JOBS)
	@ctest --test-dir build/$@ -j $(JOBS) --output-on-failure

# libFuzzer targets, MINUTES each (needs clang).
MINUTES ?= 10
fuzz: setup
	@cmake --preset fuzz >/dev/null
	@cmake --build build/fuzz -j $(JOBS)
	@scripts/fuzz.sh build/fuzz/fuzz $(MINUTES)

tidy: build
	@run-clang-tidy -quiet -p $(BUILD) 'src/.*\.cc$$'

format:
	@git ls-files '*.h' '*.cc' | xargs clang-format -i

clean:
	@rm -rf build
