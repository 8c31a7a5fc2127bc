# What a person or CI runs. `make help` tells what there is.

CARGO   ?= cargo
TARGET  := $(or $(CARGO_TARGET_DIR),target)
PORT    ?= 8000
WORKERS ?= 10

# Debian package and the command it brings, for the tests with real clients.
TOOLS := nginx-light:nginx curl:curl python3:python3 wrk:wrk nghttp2-client:h2load systemd:systemd-analyze gcc:gcc slowhttptest:slowhttptest

export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help run test check handlers bench bench-quick bench-publish faults soak soak-cache floods fuzz systemd-test tools clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-14s %s\n' "$$name" "$$text"; done

run: handlers ## build everything and serve handlers/hello.so on 127.0.0.1:$PORT with $WORKERS workers
	exec $(TARGET)/release/appserver --workers $(WORKERS) --bind 127.0.0.1:$(PORT) --module handlers/hello.so

handlers: ## build the server and the handlers, and lay handlers/{hello,echo,environ,keyvalue,proxy,hello-c}.so
	$(CARGO) build --release --locked -p appserver -p handler-hello -p handler-echo -p handler-environ -p handler-keyvalue -p handler-proxy
	@# Renamed into place: a copy over a file that a running server has mapped would change it under its feet.
	@for name in hello echo environ keyvalue proxy; do \
		cp $(TARGET)/release/lib$$name.so handlers/.$$name.so && mv handlers/.$$name.so handlers/$$name.so || exit 1; done
	gcc -O2 -Wall -Wextra -Werror -std=c11 -fPIC -shared -I handlers/sdk/include \
		-o handlers/.hello-c.so handlers/hello.c && mv handlers/.hello-c.so handlers/hello-c.so

test: tools ## every test, with real nginx, curl, wrk, h2load and Python as clients
	@# The members' .so files come from `build` alone, `test` does not make them; both share one profile.
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace --no-fail-fast

check: ## what CI runs: format, lints, documentation, tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	@$(MAKE) --no-print-directory test

# uWSGI for its symcall plugin; the WSGI peers come from PyPI into a virtual environment below the target folder.
BENCH_TOOLS := nginx-light:nginx wrk:wrk python3:python3 gcc:gcc uwsgi-core:uwsgi-core valgrind:valgrind strace:strace varnish:varnishd
BENCH := tests/bench/run --bin $(TARGET)/release --out $(TARGET)/bench

bench: ## against the field: table, ratios and plots below target/bench, in half an hour (BENCH_ARGS="--only hello")
bench-quick: ## the main ratios in under three minutes, and less exact
bench-quick: BENCH += --quick
bench bench-quick: TOOLS := $(BENCH_TOOLS)
bench bench-quick: tools
	@# venv is a module, no command. Without it the bench goes on and leaves the WSGI peers out by name.
	@python3 -c 'import ensurepip' || $(MAKE) --no-print-directory tools TOOLS=python3-venv:no-command || true
	$(CARGO) build --release --locked -p appserver -p handler-hello -p handler-lab -p bare-hyper -p cache-memory
	$(BENCH) $(BENCH_ARGS)

bench-publish: ## the last full run's short table and three plots into tests/bench/results, for the README
	$(BENCH) --redraw $(TARGET)/bench/bench.json --publish tests/bench/results

# What becomes of requests under each fault; `make test` plays them too, but shorter and without the table.
FAULTS := $(TARGET)/faults.txt

faults: tools ## every fault under load: the table of what became of each request, and medians of 20
	$(CARGO) build --locked --workspace
	@rm -f $(FAULTS)
	@FAULTS_TABLE=$(abspath $(FAULTS)) FAULTS_SECONDS=$(or $(FAULTS_SECONDS),60) FAULTS_ROUNDS=20 \
		$(CARGO) test --locked -p appserver --test main -- faults:: > $(FAULTS).log 2>&1; failed=$$?; \
	tests/faults/table $(FAULTS); \
	[ $$failed = 0 ] || { echo "some fault did what it must not: $(FAULTS).log" >&2; exit 1; }

soak: tools ## ten minutes of reloads, kills, scaling and upgrades at random (SOAK_SECONDS, SOAK_SEED)
	$(CARGO) build --locked --workspace
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(CARGO) test --locked -p appserver --test main -- --nocapture --exact \
		soak::a_soak_at_random_loses_nothing_outside_killed_workers

soak-cache: tools ## ten minutes of workers killed while they use the shared cache, every byte checked (SOAK_SECONDS, SOAK_SEED)
	$(CARGO) build --locked --workspace
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(CARGO) test --locked -p appserver --test main -- --nocapture --exact \
		cache::soak::nothing_wrong_is_served_while_workers_are_killed_at_random

# Small programs that try any bytes on the server's pure parts; `make test` replays what they have found.
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard tests/fuzz/runs/*.rs)))
FUZZ_SECONDS ?= 600
FUZZ := $(abspath $(TARGET))/fuzz
FUZZ_CARGO := --fuzz-dir tests/fuzz --sanitizer none --target-dir $(FUZZ)

fuzz: ## ten minutes of each fuzzer (FUZZ_SECONDS, FUZZ_TARGETS; FUZZ_KEEP=1 keeps the least of what was found)
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "the fuzzers need cargo-fuzz: cargo install cargo-fuzz" >&2; exit 1; }
	@command -v c++ >/dev/null 2>&1 || { echo "the fuzzers need a C++ compiler: apt-get install g++" >&2; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
		found=$(FUZZ)/corpus/$$target; words=tests/fuzz/words/$$target.dict; \
		tests/fuzz/corpora unpack $$target $$found && \
		$(CARGO) fuzz run $(FUZZ_CARGO) $$target $$found -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=4096 \
			-print_final_stats=1 $$([ -f $$words ] && echo -dict=$(abspath .)/$$words) || exit 1; \
		[ -z "$(FUZZ_KEEP)" ] || { $(CARGO) fuzz cmin $(FUZZ_CARGO) $$target $$found && \
			tests/fuzz/corpora pack $$target $$found; } || exit 1; \
	done

# Every kind of hostile client at full size; `make test` plays them too, with fewer clients and for a shorter time.
floods: TOOLS := python3:python3 slowhttptest:slowhttptest
floods: tools ## 4,000 hostile clients of each kind, 10,000 idle ones: connections held, memory, p99 of an innocent (FLOODS_ARGS="--only silent")
	$(CARGO) build --release --locked -p appserver -p handler-lab
	tests/floods/run --bin $(TARGET)/release --out $(TARGET)/floods $(FLOODS_ARGS)

systemd-test: TOOLS += debootstrap:debootstrap systemd-container:systemd-nspawn
systemd-test: tools ## as root: the units as packaged, under a real systemd in a container
	$(CARGO) build --locked -p appserver -p handler-lab
	tests/systemd/run --bin $(TARGET)/debug --work $(TARGET)/systemd

clean: ## remove what was built
	$(CARGO) clean
	rm -f handlers/*.so

# Silent when nothing is missing; installs as root, else says what to install.
tools:
	@missing=; for pair in $(TOOLS); do \
		command -v "$${pair#*:}" >/dev/null 2>&1 || missing="$$missing $${pair%%:*}"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		echo "installing what the tests need:$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "the tests need these packages: apt-get install$$missing" >&2; exit 1; \
	fi
