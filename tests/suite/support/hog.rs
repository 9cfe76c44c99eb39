//! A process that holds memory and does nothing else.

use std::process::Command;

use super::process::Process;

/// `name` is what the kernel shows as its comm: 15 bytes at most.
pub fn hog(name: &str, bytes: u64) -> Process {
    assert!(name.len() <= 15, "the kernel would cut {name}");
    let program =
        format!("import time\nopen('/proc/self/comm', 'w').write('{name}')\nheld = b'x' * {bytes}\ntime.sleep(600)");
    Process::start(name, Command::new("python3").args(["-S", "-c", &program]))
}
