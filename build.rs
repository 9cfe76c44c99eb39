//! Sets the link order of the `dist` build: functions that a running daemon uses come first, so that
//! they occupy few pages. `packaging/layout` has the list of these functions. Without the list the
//! program works the same and uses more memory. Linkers without support for such lists (mold, gold)
//! fail; `EVENKEEL_LAYOUT=0` disables the list.

use std::env::{var, var_os};
use std::path::Path;

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
    // The names in the list are the same on all targets. Only this target is known to link with lld
    // or GNU ld, and only without a custom linker.
    let flags = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let chosen = ["linker", "fuse-ld", "ld-path"];
    let is_chosen = var_os("RUSTC_LINKER").is_some() || chosen.iter().any(|word| flags.contains(word));
    if is("EVENKEEL_LAYOUT", "0") {
        return;
    }
    if is("TARGET", "x86_64-unknown-linux-gnu") && is_dist() && !is_chosen {
        let root = var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
        println!("cargo::rustc-link-arg-bins=-T{root}/{USED}");
    }
}

/// Whether the profile is `dist`. cargo's PROFILE names the built-in profile that it inherits (release); the name
/// itself is the folder of the build: target/dist/build/evenkeel-HASH/out.
fn is_dist() -> bool {
    let out = var("OUT_DIR").expect("cargo says where to write");
    let folder = Path::new(&out).ancestors().nth(3);
    folder.is_some_and(|folder| folder.ends_with("dist"))
}
