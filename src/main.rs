//! The `tunlb` binary.

fn main() -> std::process::ExitCode {
    tunlb::cli::main()
}
