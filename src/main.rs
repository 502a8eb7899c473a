//! The `tunlb` binary: logging, the command line, the exit code.

use std::process::ExitCode;

use tunlb::cli;

fn main() -> ExitCode {
    let cli = cli::parse();
    let environment = env_logger::Env::default().default_filter_or("info");
    let mut logger = env_logger::Builder::from_env(environment);
    let log = cli::LogTo::of_stderr();
    logger.format(move |out, record| log.write(out, record));
    if let Some(level) = cli.log_level() {
        logger.filter_module("tunlb", level);
    }
    logger.init();
    match cli::run(&cli) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&format!("tunlb: {error:#}"));
            ExitCode::from(cli::NO_WORK)
        }
    }
}
