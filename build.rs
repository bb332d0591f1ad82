//! Builds the init, a freestanding program of a few kilobytes that the palisade binary carries inside itself.

use std::{env, path::PathBuf, process::Command};

fn main() {
    for file in ["follow.rs", "pid1.ld", "pid1.rs", "raw.rs", "text.rs", "wire.rs"] {
        println!("cargo::rerun-if-changed=src/init/{file}");
    }
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("pid1");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
    rustc.args(["--edition=2024", "--crate-type=bin", "--crate-name=pid1", "src/init/pid1.rs"]);
    rustc.arg("--target").arg(env::var_os("TARGET").expect("cargo sets TARGET")).arg("-o").arg(&out);
    // No unwinding, no runtime, one segment where one will do: every page counts as many times as there are services.
    for option in ["panic=abort", "opt-level=z", "lto=fat", "codegen-units=1", "strip=symbols", "debuginfo=0"]
    {
        rustc.arg("-C").arg(option);
    }
    rustc.args([
        "-C",
        "overflow-checks=off",
        "-C",
        "relocation-model=static",
        "-C",
        "target-feature=+crt-static",
    ]);
    for link in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        rustc.arg("-C").arg(format!("link-arg={link}"));
    }
    for link in [
        "--build-id=none",
        "-z,norelro",
        "-z,noseparate-code",
        "-z,max-page-size=4096",
        "--gc-sections",
        "--no-eh-frame-hdr",
        "-T,src/init/pid1.ld",
    ] {
        rustc.arg("-C").arg(format!("link-arg=-Wl,{link}"));
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status().expect("rustc runs");
    assert!(status.success(), "the init (src/init/pid1.rs) does not compile: {status}");
}
