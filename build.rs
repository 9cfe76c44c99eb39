//! Lays the released program out by use: functions that a running daemon needs come first, side by side, so that they take few pages.
//! Which those are is recorded in `packaging/layout`; without that everything works the same and takes more memory.

use std::env::{var, var_os};

const USED: &str = "packaging/layout/used.ld";

fn main() {
    println!("cargo::rerun-if-changed={USED}");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    // Names of functions, as the list has them, are the same everywhere; that lld or GNU ld links is known of this target only, and
    // not where somebody chose a linker.
    let flags = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_chosen = var_os("RUSTC_LINKER").is_some() || flags.contains("linker") || flags.contains("fuse-ld");
    if is("TARGET", "x86_64-unknown-linux-gnu") && is("PROFILE", "release") && !is_chosen {
        let root = var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bins=-T{root}/{USED}");
    }
}
