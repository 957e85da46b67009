//! The program `bitnet`: all of it is in the library, which other programs contain, too.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    bitnet_cli::main(std::env::args_os()).into()
}
