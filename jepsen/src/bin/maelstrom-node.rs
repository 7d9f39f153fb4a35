//! The binary `maelstrom-node`: a node of Maelstrom's test networks.

use std::process::ExitCode;

fn main() -> ExitCode {
    match jepsen::maelstrom::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("maelstrom-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
