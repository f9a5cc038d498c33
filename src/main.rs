//! Arguments to an exit code; `annals::cli` does the rest.

use std::process::ExitCode;

fn main() -> ExitCode {
    annals::cli::main()
}
