# The doors of the project. `make demo` and `make test` need cargo (rustup reads rust-toolchain.toml) and install the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build images demo test lint bench bench-smoke profile generate clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

prerequisites:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust with rustup (https://rustup.rs)"; exit 1; }
	@e2e/parts/prerequisites.sh

build: prerequisites ## compile all programs into target/debug
	cargo build --workspace --bins

images: prerequisites ## release images of node-agent and operator as OCI archives in target/images
	images/build.sh

demo: build ## CUDA closures of different versions land on nodes with different real drivers
	target/debug/demo

test: build ## every tier that this machine can run; says what it could not
	@rm -f target/skipped.txt
	@e2e/cluster/build.sh helm $$([ $$(id -u) != 0 ] || echo nodes) >/dev/null || [ $$? = 3 ]   # 3: cannot here; the tests say so
	@e2e/cluster/sanity.sh >/dev/null || [ $$? = 3 ]
	@[ $$(id -u) != 0 ] || e2e/cluster/nvidia.sh >/dev/null || [ $$? = 3 ]
	@cargo test --workspace --no-fail-fast; result=$$?; \
	if [ -s target/skipped.txt ]; then echo "skipped:"; sort -u target/skipped.txt; else echo "skipped: nothing"; fi; exit $$result

bench: prerequisites ## ours and real Nix on the same work in one run, as ratios; BENCH=NAME for one of them
	cargo build --release --workspace --bins
	target/release/bench $(BENCH)

bench-smoke: prerequisites ## the ratios that matter, in minutes
	cargo build --release --workspace --bins
	target/release/bench --smoke

profile: prerequisites ## where the agent's time goes in a benchmark, as a flame graph in target/profile; BENCH=NAME
	cargo build --release --workspace --bins
	e2e/profile.sh $(BENCH)

lint: ## formatting, clippy with warnings as errors, documentation links
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items -q

generate: ## write the generated files: CRDs, reference
	cargo run -q -p crds --bin crdgen -- charts/cudaenv/templates/crds docs/reference

clean: ## remove what was built
	cargo clean
