# The checks one by one; `scripts/test` is all of them, installs what they need, and is what CI runs.

export PATH := justfile_directory() / ".test-env/bin" + ":" + env("PATH")

# What there is.
default:
    @just --list

# Every check, or those named: `just test lint unit`.
test *STEPS:
    ./scripts/test {{STEPS}}

# A server in memory on 127.0.0.1:2113.
serve *OPTIONS:
    cargo run --release --locked -- serve {{OPTIONS}}

# Formats Rust and proto.
format:
    cargo fmt --all
    buf format --write

lint:
    cargo clippy --locked --workspace --all-targets -- -D warnings

proto:
    buf lint
    buf format --diff --exit-code

unit *FILTER:
    cargo test --locked --workspace {{FILTER}}

# `just models loom`, `just models shuttle`.
models CHECKER:
    CARGO_PROFILE_DEV_OPT_LEVEL=3 cargo test --locked --lib --features {{CHECKER}} model

# The built server, seen by grpcurl, buf curl and Python's reflection.
inspect:
    cargo build --locked --bin annals
    python -B -m unittest discover --start-directory tests/inspect

# Figures worth keeping come from the release build.
bench *OPTIONS:
    cargo bench --locked --bench end_to_end -- {{OPTIONS}}

# What an event takes, against benches/instructions.toml; `--accept` keeps what it takes now.
instructions *OPTIONS:
    cargo bench --locked --profile counted --bench instructions -- {{OPTIONS}}

# Needs cargo-deny and, for advisories, the network; `unit` holds licences and versions without both.
deny:
    cargo deny check
