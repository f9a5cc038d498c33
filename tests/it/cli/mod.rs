//! The command line from the outside: options, files, exit codes.

mod commands;
mod config;
mod fake_server;
mod import_file;
mod real_server;
