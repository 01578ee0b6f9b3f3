# SPDX-License-Identifier: MIT
# `make help` lists the targets. Every step leaves a stamp in build/, so a second run costs nothing.

PYTHON ?= /usr/bin/python3
VENV := .venv
PY := $(VENV)/bin/python
PREFIX ?= /usr/local
OPT ?= /opt/whalescale
UNITDIR ?= /etc/systemd/system
FUZZ_SECONDS ?= 60
SOAK_MINUTES ?= 20
SOAK_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
DEBIAN ?= 13
# of demo, setup, test, ci, deb, packages; without any: the first three
CLEAN_STEPS ?=
# a command that `make test` runs beside the tests that mostly wait
BESIDE ?=

SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

STEP := tools/step.sh
LOG := build/log
STAMP := build/stamp
EXT_SOURCES := $(wildcard csrc/*.[ch] csrc/*/*.[ch] shared/*.h) whalescale/dataplane/_build.py setup.py
BPF_FOLDER := whalescale/dataplane/bpf
BPF_OBJECTS := $(patsubst bpf/%.c,$(BPF_FOLDER)/%.o,$(wildcard bpf/*.bpf.c))
BPF_CFLAGS := -target bpf -mcpu=v3 -g -ffile-prefix-map=$(CURDIR)=. -O2 -Wall -Wextra -Werror -iquote . -idirafter /usr/include/$(shell uname -m)-linux-gnu
C_STYLE := $(wildcard csrc/*.[ch] csrc/*/*.[ch] shared/*.h tests/csrc/*.[ch] tests/fuzz/*.[ch] tests/netns/*.[ch] tools/*.[ch] tools/bench/*.[ch] bpf/*.[ch])

.PHONY: help wheel deb packages setup build asan tsan programs test test-clean lint format fuzz demo demo-network demo-nat bench bench-multipath bench-nat bench-network soak install uninstall clean
.DEFAULT_GOAL := help
# Where it is set each agent that a test starts compiles a hundred modules anew.
unexport PYTHONDONTWRITEBYTECODE
# The steps write over each other's lines otherwise, and the packages come before what needs them.
.NOTPARALLEL:

help:
	@echo "make setup      system packages (as root), Python environment, build"
	@echo "make build      (re)build the data plane in place"
	@echo "make asan       the data plane under ASan and UBSan, in build/asan"
	@echo "make tsan       the data plane under ThreadSanitizer, in build/tsan"
	@echo "make demo       one download over a 5G and a WiFi link, one of them cut (root)"
	@echo "make demo-network  five machines become a network; one dies, moves, is revoked (root)"
	@echo "make demo-nat   two laptops behind NATs: directly, over an anchor, and back (root)"
	@echo "make bench      measure against wireguard-go (root); BENCH_ARGS=--quick for a short run"
	@echo "make bench-network    what the network reaches: virtual time, the store, agents (root)"
	@echo "make bench-nat   who reaches whom through which routers: virtual time, agents (root)"
	@echo "make bench-multipath  one flow over several links, against MPTCP (root); BENCH_ARGS as above"
	@echo "make test       every test; PYTEST_ARGS='-k name' narrows it"
	@echo "make test-clean  demo and tests on a new minimal Debian, DEBIAN=12 or 13 (root, network)"
	@echo "make coverage   what the tests that need no root reach, Python and C, in build/coverage"
	@echo "make lint       ruff, mypy, clang-format, import rules, shellcheck"
	@echo "make format     put the formatting right"
	@echo "make fuzz       fuzz for FUZZ_SECONDS=$(FUZZ_SECONDS) a target"
	@echo "make soak       agents killed, links cut, hostile datagrams, SOAK_MINUTES=$(SOAK_MINUTES) (root)"
	@echo "make deb        a Debian package in dist/, for this Debian; DEBIAN=13 for another (root)"
	@echo "make wheel      a wheel in dist/"
	@echo "make packages   both, and what is in them is looked at (root)"
	@echo "make install    $(OPT), $(PREFIX)/bin/ws, systemd unit, man page, completion (root)"
	@echo "make uninstall  take that away again; configurations stay"
	@echo "make clean      everything built, the environment too"

setup: $(STAMP)/apt-dev $(STAMP)/venv-dev $(STAMP)/ext $(STAMP)/bpf
	@:

build: $(STAMP)/ext $(STAMP)/bpf
	@:

$(STAMP)/apt-run: tools/apt-packages tools/apt.sh
	@mkdir -p $(STAMP)
	@$(STEP) "system packages (build, run)" $(LOG)/apt-run.log tools/apt.sh build run
	@touch $@

$(STAMP)/apt-bpf: $(STAMP)/apt-run
	@$(STEP) "system packages (eBPF)" $(LOG)/apt-bpf.log tools/apt.sh bpf
	@touch $@

$(STAMP)/apt-deb: $(STAMP)/apt-bpf
	@$(STEP) "system packages (Debian package)" $(LOG)/apt-deb.log tools/apt.sh deb
	@touch $@

$(STAMP)/apt-dev: $(STAMP)/apt-bpf
	@$(STEP) "system packages (tests)" $(LOG)/apt-dev.log tools/apt.sh dev
	@touch $@

$(STAMP)/venv: pyproject.toml requirements.lock tools/venv.sh | $(STAMP)/apt-run
	@$(STEP) "Python environment" $(LOG)/venv.log tools/venv.sh "$(PYTHON)" $(VENV)
	@touch $@

# Apart from the set-up: half as much room again, for fuzzers and a virtual machine.
$(STAMP)/test: $(STAMP)/apt-dev $(STAMP)/venv-dev
	@$(STEP) "system packages (fuzzers, test machine)" $(LOG)/apt-test.log tools/apt.sh test
	@$(STEP) "Python packages (fuzzers)" $(LOG)/venv-test.log \
		$(PY) -m pip install --quiet --group test
	@touch $@

$(STAMP)/lint: $(STAMP)/apt-dev $(STAMP)/venv-dev
	@$(STEP) "system packages (lint)" $(LOG)/apt-lint.log tools/apt.sh lint
	@$(STEP) "Python packages for lint" $(LOG)/venv-lint.log \
		$(PY) -m pip install --quiet --group lint
	@touch $@

$(STAMP)/venv-wheel: $(STAMP)/venv
	@$(STEP) "Python packages for the wheel" $(LOG)/venv-wheel.log \
		$(PY) -m pip install --quiet --group wheel
	@touch $@

$(STAMP)/venv-demo: $(STAMP)/venv
	@$(STEP) "Python packages for the demo's picture" $(LOG)/venv-demo.log \
		$(PY) -m pip install --quiet --group demo
	@touch $@

$(STAMP)/venv-dev: $(STAMP)/venv
	@$(STEP) "Python packages for tests" $(LOG)/venv-dev.log \
		$(PY) -m pip install --quiet --group dev
	@touch $@

# editable_mode=compat is a plain .pth file: no import hook, so `ws` starts as fast as installed.
$(STAMP)/ext: $(EXT_SOURCES) | $(STAMP)/venv
	@$(STEP) "data plane (C)" $(LOG)/ext.log env WS_CFLAGS="-Werror $(WS_CFLAGS)" \
		$(PY) -m pip install --quiet --no-build-isolation --no-deps \
		--config-settings editable_mode=compat --editable .
	@touch $@

# The programs need nothing of this kernel (no vmlinux.h). Without them the agent works and says so.
$(STAMP)/bpf: $(BPF_OBJECTS) | $(STAMP)/apt-run
	@touch $@

# No clang (the demo asks for none): they stay unmade, and are made once it is there.
$(BPF_FOLDER)/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h shared/*.h) Makefile | $(STAMP)/apt-run
	@mkdir -p $(BPF_FOLDER) $(STAMP)
	@if command -v clang >/dev/null; then \
		$(STEP) "eBPF program $*" $(LOG)/bpf-$*.log clang $(BPF_CFLAGS) -c $< -o $@; \
	else echo "eBPF program $*: no clang, left out"; fi

# Beside the one in the tree: the netns tests load it where WS_TEST_LIB says so.
asan: $(STAMP)/asan
	@:

tsan: $(STAMP)/tsan
	@:

$(STAMP)/asan: $(EXT_SOURCES) | $(STAMP)/venv
	@$(STEP) "objects under ASan and UBSan (C)" $(LOG)/csrc.log $(MAKE) -s -j2 -C tests/csrc objects
	@$(STEP) "data plane (C) under ASan and UBSan" $(LOG)/asan.log \
		env WS_OBJECTS=build/csrc/objects WS_CFLAGS="-Werror -O1 $(SANITIZE)" WS_LDFLAGS="$(SANITIZE)" \
		$(PY) setup.py --quiet build_ext --build-lib build/asan --build-temp build/asan/temp
	@touch $@

$(STAMP)/tsan: $(EXT_SOURCES) | $(STAMP)/venv
	@$(STEP) "data plane (C) under ThreadSanitizer" $(LOG)/tsan.log \
		env WS_CFLAGS="-Werror -Wno-error=tsan -O1 -fsanitize=thread" WS_LDFLAGS="-fsanitize=thread" \
		$(PY) setup.py --quiet build_ext --build-lib build/tsan --build-temp build/tsan/temp
	@touch $@

# What tests would compile for themselves, one at a time. .ci/run has it done beside `make lint`,
# where mypy takes one processor.
programs: $(STAMP)/test $(STAMP)/asan
	@$(STEP) "test programs (C)" $(LOG)/csrc.log $(MAKE) -s -j2 -C tests/csrc all
	@$(STEP) "fuzz targets (C)" $(LOG)/fuzz.log $(MAKE) -s -j2 -C tests/fuzz all

test: setup $(STAMP)/test $(if $(strip $(PYTEST_ARGS)),,$(STAMP)/asan)
ifeq ($(strip $(PYTEST_ARGS)),)
	@tools/suite.sh $(PY) $(LOG)/beside.log $(BESIDE)
else
	@$(PY) -m pytest $(PYTEST_ARGS)
endif

test-clean:
	@$(PYTHON) tools/clean_system.py --debian $(DEBIAN) $(CLEAN_STEPS)

# The C of the data plane is measured by the tests of its leaves, built with gcov in a folder of their own.
coverage: setup
	@$(PY) -m pip install --quiet --group coverage
	@rm -rf build/coverage && mkdir -p build/coverage
	@WS_COVERAGE=1 $(PY) -m pytest -n auto -m "not long and not netns" --cov=whalescale \
		--cov-report=html:build/coverage/python --cov-report=term:skip-covered \
		tests/unit tests/sim tests/csrc
	@$(VENV)/bin/gcovr --root . --filter 'csrc/' --object-directory build/csrc-coverage \
		--html-nested build/coverage/c.html --print-summary build/csrc-coverage

lint: setup $(STAMP)/lint
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/clang-format --dry-run -Werror $(C_STYLE)
	@$(PY) tools/check_imports.py
	@if command -v shellcheck >/dev/null; then shellcheck tools/*.sh .ci/run; \
		else echo "shellcheck is not installed: shell scripts not checked"; fi

format: setup $(STAMP)/lint
	@$(VENV)/bin/ruff check --fix --quiet . || :
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/clang-format -i $(C_STYLE)

fuzz: setup $(STAMP)/test
	@WS_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PY) -m pytest --timeout=0 tests/fuzz $(PYTEST_ARGS)

demo: $(STAMP)/venv-demo $(STAMP)/ext $(STAMP)/bpf
	@$(PY) tools/demo.py $(DEMO_ARGS)

demo-network: $(STAMP)/venv-demo $(STAMP)/ext $(STAMP)/bpf
	@$(PY) tools/demo_network.py $(DEMO_ARGS)

demo-nat: $(STAMP)/venv-demo $(STAMP)/ext $(STAMP)/bpf
	@$(PY) tools/demo_nat.py $(DEMO_ARGS)

bench: setup
	@$(PY) -m tools.bench $(BENCH_ARGS)

bench-multipath: setup
	@$(PY) -m tools.mpbench $(BENCH_ARGS)

# As root, for two rows are of agents in namespaces; BENCH_ARGS="--members 1000 --docs" and so on.
bench-network: setup
	@$(PY) -m tools.netbench $(BENCH_ARGS)

# As root, for one part is of agents behind NATs; BENCH_ARGS="--only table first" and so on.
bench-nat: setup
	@$(PY) -m tools.natbench $(BENCH_ARGS)

# What it keeps in build/soak, `python -m tools.soak --join` puts into one table.
soak: setup $(STAMP)/test
	@$(PY) -m tools.soak --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

# For the Debian that this runs on, or DEBIAN=12 or 13 in a clean system of its own.
deb: $(STAMP)/apt-deb $(STAMP)/bpf
ifeq ($(origin DEBIAN),file)
	@$(STEP) "Debian package" $(LOG)/deb.log tools/deb.py --python "$(PYTHON)"
	@ls -1 dist/*.deb
else
	@$(PYTHON) tools/clean_system.py --debian $(DEBIAN) --take dist deb
endif

# OpenSSL stays the system's, which gets its repairs; liburing and libsodium come along.
wheel: $(STAMP)/apt-bpf $(STAMP)/venv-wheel $(STAMP)/bpf
	@$(STEP) "wheel" $(LOG)/wheel.log tools/wheel.sh $(VENV)
	@ls -1 dist/*.whl

# Both for this machine, and what is in them.
packages: wheel deb
	@$(STEP) "what is in them" $(LOG)/built.log $(PY) tools/built.py

install: $(STAMP)/apt-bpf $(STAMP)/bpf
	@tools/install.sh install "$(PYTHON)" "$(OPT)" "$(PREFIX)" "$(UNITDIR)"

uninstall:
	@tools/install.sh uninstall "$(PYTHON)" "$(OPT)" "$(PREFIX)" "$(UNITDIR)"

clean:
	rm -rf build .venv *.egg-info dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf $(BPF_FOLDER)
	rm -f whalescale/dataplane/_lib.c whalescale/dataplane/_lib*.so
	find whalescale tests tools -name __pycache__ -prune -exec rm -rf {} +
