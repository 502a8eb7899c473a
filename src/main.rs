//! The `tunlb` binary: logging, the command line, the exit code.

use std::process::ExitCode;

use tunlb::cli;

fn main() -> ExitCode {
    let cli = cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(cli::log_line)
        .init();
    match cli::run(&cli) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&format!("tunlb: {error:#}"));
            ExitCode::from(cli::NO_WORK)
        }
    }
}
