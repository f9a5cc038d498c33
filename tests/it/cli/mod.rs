//! The command line from the outside: options, files, exit codes.

mod commands;
mod config;
mod import_file;
