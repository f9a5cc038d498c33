//! Compiles the protocol, as the server's build does, into a client. No protoc is needed: protox is pure Rust.

use std::error::Error;

const PROTO: &str = "../../proto";
const PROTOS: [&str; 8] = [
    "annals/v1/event.proto",
    "annals/v1/command.proto",
    "annals/v1/query.proto",
    "annals/v1/subscription.proto",
    "annals/v1/group.proto",
    "annals/v1/read_model.proto",
    "annals/v1/admin.proto",
    "annals/v1/error.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO}");
    let descriptors = protox::compile(PROTOS, [PROTO])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .btree_map(".")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(descriptors)?;
    Ok(())
}
