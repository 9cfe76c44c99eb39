//! The program: from arguments to an exit code.

use evenkeel::cli::{Cli, Command};
use evenkeel::host::runner::Role;
use evenkeel::{app, show};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(role) = Role::of_arguments(std::env::args_os()) {
        return role.run();
    }
    let cli = match Cli::parse_from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match cli.command {
        Command::Run(run) => app::run(*run),
        Command::Check(check) => show::check(&check),
        Command::Explain(explain) => show::explanation(&explain),
        Command::Test(test) => show::tests(&test),
        Command::Status(status) => show::status(&status),
        Command::Leases(query) => show::leases(&query),
        Command::History(history) => show::history(&history),
        Command::Release(release) => show::release(&release),
        Command::Pause(reach) => show::pause(&reach, true),
        Command::Resume(reach) => show::pause(&reach, false),
        Command::Reload(reach) => show::reload(&reach),
        Command::Completions(completions) => show::completions(&completions),
        Command::Man(manual) => show::manual(&manual),
    }
}
