//! The binary: the command line of the library, and the two things only a process has.

use std::process::ExitCode;

use clap::Parser as _;
use mandate::cli::{self, Cli};

/// A webhook makes many small objects per review and drops them together.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The first thing of all: two providers could otherwise be linked, and rustls would
    // stop the process when it has to choose. An error says that one is already chosen.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(Cli::parse())
}
