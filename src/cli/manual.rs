//! Shell completions and manual pages, generated from the definition of the command line.

use super::Cli;
use crate::sense::COLLECTORS;
use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::io;
use std::path::Path;

/// The script that makes `shell` complete evenkeel's commands and flags.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut command = Cli::command().mut_subcommand("run", with_collectors);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "evenkeel", &mut script);
    script
}

/// Adds the switches of collectors, which clap does not parse itself.
fn with_collectors(run: Command) -> Command {
    let switch = |prefix: &str, name: &str| {
        let flag = format!("{prefix}collector.{name}");
        Arg::new(flag.clone()).long(flag).action(ArgAction::SetTrue)
    };
    COLLECTORS.iter().fold(run, |run, info| {
        let on = switch("", info.name).help(info.help);
        run.arg(on).arg(switch("no-", info.name).help("Switch it off"))
    })
}

/// The page of section 1 about evenkeel, or about one of its commands; `None` where there is no such command.
pub fn man_page(name: Option<&str>) -> Option<Vec<u8>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let about = match name {
        None => command,
        Some(name) => {
            let known = command.get_subcommands().find(|known| known.get_name() == name)?;
            // `man evenkeel-run` and the page's own heading are spelled alike.
            known.clone().name(format!("evenkeel-{name}"))
        }
    };
    let mut page = Vec::new();
    Man::new(about).render(&mut page).expect("a Vec takes everything");
    Some(page)
}

/// Writes every page into `directory`: `evenkeel.1`, `evenkeel-run.1` and so on.
///
/// # Errors
/// When a file cannot be written.
pub fn write_man_pages(directory: &Path) -> io::Result<()> {
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_completes_commands_and_flags() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).unwrap();
            for word in ["explain", "web.listen-address", "no-collector.meminfo"] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
    }

    #[test]
    fn there_is_a_page_about_all_and_about_each_command() {
        let all = String::from_utf8(man_page(None).unwrap()).unwrap();
        assert!(
            all.contains(".TH evenkeel 1") && all.contains("evenkeel\\-explain(1)"),
            "{all}"
        );
        let run = String::from_utf8(man_page(Some("run")).unwrap()).unwrap();
        assert!(
            run.contains(".TH evenkeel-run 1") && run.contains("\\-\\-enforce"),
            "{run}"
        );
        assert_eq!(man_page(Some("rum")), None);
        let folder = tempfile::tempdir().unwrap();
        write_man_pages(folder.path()).unwrap();
        let name = |command: &Command| folder.path().join(format!("evenkeel-{}.1", command.get_name()));
        assert!(Cli::command().get_subcommands().all(|command| name(command).exists()));
    }
}
