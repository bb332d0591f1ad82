//! Builds the init, a freestanding program of a few kilobytes that the palisade binary carries inside itself, and makes the
//! table of keys (`config::reference`) from the loader's structures and their comments.

use std::{env, fmt::Write, fs, path::PathBuf, process::Command};

fn main() {
    init();
    keys();
}

fn init() {
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

/// Writes one constant for each kind of file: the tables that it may have, the top level first.
fn keys() {
    let mut code = String::new();
    let files = [
        ("SERVICE", &["schema.rs", "schema/condition.rs"][..], "Tables"),
        ("SETTINGS", &["settings.rs"], "SettingsTables"),
    ];
    for (name, files, top) in files {
        let mut tables = Vec::new();
        for file in files {
            let path = format!("src/config/{file}");
            println!("cargo::rerun-if-changed={path}");
            tables.extend(tables_of(&fs::read_to_string(&path).expect("our own source")));
        }
        tables.sort_by_key(|table: &Table| table.kind != top);
        let _ = writeln!(code, "/// Made by build.rs.\npub const {name}: &[Table] = &[");
        for Table { kind, about, keys } in tables {
            let _ = writeln!(code, "Table {{ kind: {kind:?}, about: {about:?}, keys: &[");
            for (name, kind, about) in keys {
                let _ = writeln!(code, "Key {{ name: {name:?}, kind: {kind:?}, about: {about:?} }},");
            }
            code.push_str("] },\n");
        }
        code.push_str("];\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("keys.rs");
    fs::write(out, code).expect("cargo's own directory");
}

/// A structure whose name ends with `Table` or `Tables`: its fields are keys.
struct Table {
    kind: String,
    about: String,
    /// Name, type and comment.
    keys: Vec<(String, String, String)>,
}

fn tables_of(source: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut comment = String::new();
    let mut inside = false;
    for line in source.lines() {
        let text = line.trim();
        let item = text.strip_prefix("pub ").unwrap_or(text);
        if let Some(doc) = text.strip_prefix("///") {
            let _ = write!(comment, "{}{}", if comment.is_empty() { "" } else { " " }, doc.trim());
            continue;
        }
        if let Some(kind) = item.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
            inside = kind.ends_with("Table") || kind.ends_with("Tables");
            if inside {
                let about = std::mem::take(&mut comment);
                tables.push(Table { kind: kind.to_owned(), about, keys: Vec::new() });
            }
        } else if text == "}" {
            inside = false;
        } else if let (true, Some((name, kind))) = (inside, item.trim_end_matches(',').split_once(": ")) {
            // Where a value stands, and whether it does, is the loader's.
            let kind = kind.replace("Option<", "").replace("Spanned<", "");
            let closing = kind.matches('>').count() - kind.matches('<').count();
            let kind = kind[..kind.len() - closing].to_owned();
            let name = name.trim_start_matches("r#").to_owned();
            let about = std::mem::take(&mut comment);
            tables.last_mut().expect("a field follows its structure").keys.push((name, kind, about));
        }
        if !text.starts_with("#[") {
            comment.clear();
        }
    }
    tables
}
