//! The binary `jepsen`.

use std::process::ExitCode;

fn main() -> ExitCode {
    jepsen::cli::main()
}
