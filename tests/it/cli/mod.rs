//! The command line from the outside: options, files, exit codes.

mod backup;
mod bench;
mod bench_overload;
mod commands;
mod config;
mod data_directory;
mod fake_server;
mod groups;
mod groups_real;
mod import_file;
mod made_history;
mod models;
mod queries;
mod real_server;
mod repair;
mod subscriptions;
mod verify;
