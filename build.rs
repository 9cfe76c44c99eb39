//! Lays the released program out by use: functions that a running daemon needs come first, side by side, so that they take few pages.
//! Which those are is recorded in `packaging/layout`; without that everything works the same and takes more memory. A linker that
//! does not know such lists (mold, gold) fails on it: `EVENKEEL_LAYOUT=0` leaves it out.

use std::env::{var, var_os};

const USED: &str = "packaging/layout/used.ld";

fn main() {
    println!("cargo::rerun-if-changed={USED}");
    for name in ["EVENKEEL_LAYOUT", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for name in ["LINKER", "RUSTFLAGS"] {
        println!("cargo::rerun-if-env-changed=CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_{name}");
    }
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    // Names of functions, as the list has them, are the same everywhere; that lld or GNU ld links is known of this target only, and
    // not where somebody chose a linker.
    let flags = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let chosen = ["linker", "fuse-ld", "ld-path"];
    let is_chosen = var_os("RUSTC_LINKER").is_some() || chosen.iter().any(|word| flags.contains(word));
    if is("EVENKEEL_LAYOUT", "0") {
        return;
    }
    if is("TARGET", "x86_64-unknown-linux-gnu") && is("PROFILE", "release") && !is_chosen {
        let root = var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bins=-T{root}/{USED}");
    }
}
