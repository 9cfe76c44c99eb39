//! A process of `tenant`, who is another user than evenkeel's. It is killed when the test ends.

use super::*;
use std::process::{Child, Command};

pub struct Target(Child);

impl Target {
    pub fn start(program: &str, arguments: &[&str]) -> Target {
        let mut command = Command::new("setsid");
        command.args(["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", program]);
        command.args(arguments);
        let target = Target(command.spawn().expect("it starts"));
        let pid = target.pid();
        eventually("the program", TIMEOUT, || {
            let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            cmdline.starts_with(program).then_some(())
        });
        target
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn nice(&self) -> i32 {
        let nice = sh(&format!("ps -o ni= -p {}", self.pid()));
        nice.trim().parse().expect("a nice value")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
