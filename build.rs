//! Compiles `proto/` and its descriptor set, nothing else. No protoc is needed: protox is pure Rust.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const PROTOS: [&str; 9] = [
    "annals/v1/event.proto",
    "annals/v1/command.proto",
    "annals/v1/query.proto",
    "annals/v1/subscription.proto",
    "annals/v1/group.proto",
    "annals/v1/read_model.proto",
    "annals/v1/admin.proto",
    "annals/v1/error.proto",
    "annals/bench/v1/bench.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    // protox's own encoding: it keeps what prost-types would drop (comments and custom options).
    fs::write(out.join("annals.binpb"), compiler.encode_file_descriptor_set())?;
    let descriptors = compiler.file_descriptor_set();
    debug_assert!(descriptors.encoded_len() > 0);

    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        // The messages that carry events out of the log are sent as they lie there: src/wire/block.rs.
        .extern_path(".annals.v1.EventBatch", "crate::wire::block::EventBlock")
        .extern_path(".annals.v1.ReadStreamResponse", "crate::wire::block::EventBlock")
        .extern_path(".annals.v1.ReadAllResponse", "crate::wire::block::EventBlock")
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .codec_path("crate::wire::codec::Codec")
        .compile_fds(descriptors.clone())?;

    // The server takes appends with their events left encoded: src/wire/append.rs.
    let commands = out.join("commands");
    fs::create_dir_all(&commands)?;
    let mut of_commands = descriptors;
    of_commands.file.retain(|file| file.name() == "annals/v1/command.proto");
    let mut builder = tonic_prost_build::configure()
        .build_client(false)
        .out_dir(commands)
        .extern_path(".annals.v1", "crate::wire::proto::v1")
        .codec_path("crate::wire::codec::Codec");
    for request in ["AppendRequest", "AppendStreamRequest", "CommitRequest"] {
        let (path, ours) =
            (format!(".annals.v1.{request}"), format!("crate::wire::append::{request}"));
        builder = builder.extern_path(path, ours);
    }
    builder.compile_fds(of_commands)?;
    Ok(())
}
