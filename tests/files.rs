//! The verbs that read and write service files: `cat show new edit enable disable mask unmask`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

/// A directory of service files, and one where editors are.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let desk = Self(dir);
        fs::create_dir(desk.services()).unwrap();
        fs::write(desk.0.path().join("palisade.toml"), "[defaults]\nservice.umask = \"0027\"\n").unwrap();
        desk
    }

    fn services(&self) -> PathBuf {
        self.0.path().join("services")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.services().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// Exit code, standard output, standard error.
    fn run_with(
        &self,
        verb: &str,
        arguments: &[&str],
        environment: &[(&str, &Path)],
    ) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
        command.arg("--config").arg(self.0.path().join("palisade.toml"));
        command.arg("--run").arg(self.0.path().join("nobody")).arg(verb);
        command.arg("--services").arg(self.services()).args(arguments).stdin(Stdio::null());
        command.env("TMPDIR", self.0.path()).env_remove("VISUAL").envs(environment.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> (i32, String, String) {
        self.run_with(verb, arguments, &[])
    }

    fn ok(&self, verb: &str, arguments: &[&str]) -> String {
        let (code, out, err) = self.run(verb, arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{verb} {arguments:?}: {out}");
        out
    }

    /// `edit` with a program that does this to the file.
    fn edit(&self, arguments: &[&str], program: &str) -> (i32, String, String) {
        let editor = self.0.path().join("editor");
        fs::write(&editor, format!("{program}\n")).unwrap();
        // Read and not executed: a child of another thread may have it open to write for a moment, which is ETXTBSY.
        let editor = PathBuf::from(format!("sh {}", editor.display()));
        let done = self.run_with("edit", arguments, &[("EDITOR", &editor)]);
        let left = fs::read_dir(self.0.path()).unwrap().flatten().map(|entry| entry.file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("palisade-edit")).collect();
        assert!(left.is_empty(), "{left:?}");
        done
    }
}

const WEB: &str = "[service]\ncommand = \"/usr/bin/web\"  # the shop\n";

#[test]
fn a_new_file_is_one_that_the_loader_takes_and_each_of_its_hints_as_well() {
    let desk = Desk::new();
    let path = desk.file("shop.toml");
    let out = desk.ok("new", &["shop", "/usr/bin/shop", "--port", "a \"b\""]);
    assert!(out.starts_with(&format!("{}: written; ", path.display())), "{out}");
    desk.ok("check", &[]);
    assert_eq!(
        desk.ok("show", &["shop"]).lines().next(),
        Some("service.command = [\"/usr/bin/shop\", \"--port\", \"a \\\"b\\\"\"]")
    );
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    let (code, _, err) = desk.run("new", &["shop"]);
    assert_eq!(code, 1);
    assert!(err.contains(&format!("{} is there already", path.display())), "{err}");

    let text = desk.ok("new", &["--stdout", "db"]);
    let is_hint = |line: &&str| line.starts_with("# [") || line.starts_with("# ") && line.contains(" = ");
    let hints = text.lines().filter(is_hint).count();
    assert!(hints > 20, "{hints}");
    for (n, line) in text.lines().enumerate().filter(|(_, line)| is_hint(line)) {
        // A key is tried below the title of its table, which may be a hint itself.
        let title = text.lines().take(n).filter(|line| line.trim_start_matches("# ").starts_with('[')).last();
        let bare = line.trim_start_matches("# ");
        let alone = match title.filter(|_| !bare.starts_with('[')) {
            Some(title) => format!("{}\n{bare}\n", title.trim_start_matches("# ")),
            None => format!("{bare}\n"),
        };
        let command = "service.command = \"/usr/bin/true\"\n";
        let alone = match alone.starts_with("[service]") {
            true => format!("{alone}command = \"/usr/bin/true\"\n"),
            false => format!("{command}{alone}"),
        };
        fs::remove_file(&path).unwrap_or_default();
        desk.write("db.toml", &alone);
        let (_, _, err) = desk.run("check", &["db"]);
        // What the host has not, it has not: a name, a directory.
        let is_known = !err.contains("unknown") && !err.contains("takes ") && !err.contains("did you mean");
        assert!(is_known, "{line}: {err}");
    }
}

#[test]
fn cat_shows_each_text_and_show_what_they_say_together() {
    let desk = Desk::new();
    let file = desk.write(
        "web.toml",
        &format!("{WEB}[network]\nhosts.\"a.example\" = \"192.0.2.1\"\nallow_to = [\"db:5432\"]\n"),
    );
    let drop_in = desk
        .write("web.toml.d/10.toml", "network.\"+allow_to\" = [\"cache:6379\"]\nunit.profile = \"web\"\n");
    desk.write("db.toml", WEB);
    let out = desk.ok("cat", &["web"]);
    assert!(
        out.starts_with(&format!("# {file}\n[service]\n"))
            && out.contains(&format!("\n\n# {drop_in}\nnetwork")),
        "{out}"
    );

    let out = desk.ok("show", &["web"]);
    for line in [
        "network.allow_to = [\"db:5432\", \"cache:6379\"]",
        "restart.delay = \"100ms\"",
        "service.command = \"/usr/bin/web\"",
        "network.hosts.\"a.example\" = \"192.0.2.1\"",
        "service.umask = \"0027\"",
        "unit.profile = \"web\"",
    ] {
        assert!(out.lines().any(|it| it == line), "{line} in {out}");
    }
    // What it prints is a service file, and says the same.
    desk.write("copy.toml", &out);
    desk.write("cache.toml", WEB);
    desk.ok("check", &[]);
    assert_eq!(desk.ok("show", &["copy"]), out);

    let out = desk.ok("show", &["--origin", "web"]);
    let config = desk.0.path().join("palisade.toml");
    for line in [
        format!("service.umask = \"0027\"  # {}:2", config.display()),
        "restart.delay = \"100ms\"  # <profile web>:7".to_owned(),
        format!("service.command = \"/usr/bin/web\"  # {file}:2"),
        format!("    \"cache:6379\",  # {drop_in}:1"),
    ] {
        assert!(out.lines().any(|it| it == line), "{line} in {out}");
    }
    let out: Value = serde_json::from_str(&desk.ok("show", &["--json", "web"])).unwrap();
    let settings = out["services"][0]["settings"].as_array().unwrap();
    let found = settings.iter().find(|setting| setting["key"] == "network.allow_to").unwrap();
    assert_eq!(found["value"][1], json!({ "value": "\"cache:6379\"", "at": { "file": drop_in, "line": 1 } }));

    let broken = desk.write("bad.toml", "[service\n\u{1b}[31mred\n");
    assert!(
        desk.ok("cat", &["bad"]).contains("\\x1b[31mred"),
        "a broken file is shown, and no terminal obeys it"
    );
    let (code, _, err) = desk.run("show", &["bad"]);
    assert!(code == 2 && err.contains(&format!("{broken}:1")), "{err}");
    assert_eq!(desk.run("cat", &["nobody"]).0, 4);
}

#[test]
fn an_edited_file_is_checked_before_it_is_written() {
    let desk = Desk::new();
    let file = desk.write("web.toml", WEB);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();

    let (code, out, _) = desk.edit(&["web"], "true");
    assert_eq!((code, out), (0, format!("{file}: not changed\n")));
    let (code, _, err) = desk.edit(&["web"], "echo 'nicee = 5' >> \"$1\"");
    assert!(code == 1 && err.contains(&format!("{file}:3")) && err.contains("did you mean `nice`?"), "{err}");
    assert_eq!(desk.read("web.toml"), WEB, "nobody was there to say what is to become of it");
    let (code, _, err) = desk.edit(&["web"], "echo 'nice = 5' >> \"$1\"; exit 3");
    assert!(code == 1 && err.contains("nothing was changed"), "{err}");
    assert_eq!(desk.read("web.toml"), WEB);

    let (code, out, err) = desk.edit(&["web"], "echo 'nice = 5' >> \"$1\"");
    assert!(code == 0 && out.starts_with(&format!("{file}: written; ")), "{out}{err}");
    assert_eq!(desk.read("web.toml"), format!("{WEB}nice = 5\n"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640, "it keeps its mode");

    let (code, _, err) =
        desk.edit(&["--drop-in", "web"], "grep -q '^# command' \"$1\" && echo 'service.nice = 7' >> \"$1\"");
    assert_eq!(code, 0, "what it is laid on is shown in it: {err}");
    assert!(
        desk.ok("show", &["--origin", "web"]).contains("service.nice = 7  # "),
        "{}",
        desk.ok("cat", &["web"])
    );
    let (code, out, _) = desk.edit(&["--drop-in", "web"], "grep -q nice \"$1\" || exit 1");
    assert!(code == 0 && out.ends_with("50-local.toml: not changed\n"), "it is opened again: {out}");
}

#[test]
fn a_service_is_enabled_and_disabled_whatever_its_file_says() {
    let desk = Desk::new();
    desk.write("web.toml", WEB);
    let drop_in = "web.toml.d/90-enabled.toml";
    let enabled =
        || desk.ok("show", &["web"]).lines().find(|line| line.starts_with("unit.enabled")).map(str::to_owned);
    assert_eq!(desk.ok("enable", &["web"]), "web: enabled already\n");
    assert!(desk.ok("disable", &["web"]).starts_with("web: disabled; "));
    assert_eq!(enabled().as_deref(), Some("unit.enabled = false"));
    assert_eq!(desk.ok("disable", &["web"]), "web: disabled already\n");
    assert!(desk.ok("enable", &["web"]).starts_with("web: enabled; "));
    assert_eq!(enabled(), None);
    assert!(!desk.file("web.toml.d").exists(), "nothing of ours is left");

    let file = desk.write("web.toml", &format!("unit.enabled = false\n{WEB}"));
    desk.ok("enable", &["web"]);
    assert_eq!(enabled().as_deref(), Some("unit.enabled = true"));
    assert!(desk.read(drop_in).contains("unit.enabled = true"));
    desk.ok("disable", &["web"]);
    assert!(!desk.file(drop_in).exists(), "the file says it already");
    assert!(desk.ok("show", &["--origin", "web"]).contains(&format!("unit.enabled = false  # {file}:1")));

    let last = desk.write("web.toml.d/99.toml", "unit.enabled = false\n");
    let (code, _, err) = desk.run("enable", &["web"]);
    assert!(
        code == 1 && err.contains(&format!("web is not enabled: {last}:1:16 has the last word")),
        "{err}"
    );

    let template = desk.write("app@.toml", WEB);
    let (code, _, err) = desk.run("enable", &["app@1"]);
    assert!(code == 1 && err.contains(&format!("`unit.instances` of {template}")), "{err}");
    // Nobody is there who would start it.
    assert_eq!(desk.run("disable", &["--now", "app@1"]).0, 5);
}

#[test]
fn a_mask_hides_no_file_of_the_operators() {
    let desk = Desk::new();
    let file = desk.write("web.toml", WEB);
    let (code, _, err) = desk.run("mask", &["web"]);
    assert!(code == 1 && err.contains(&format!("{file} is a file of its own")), "{err}");
    assert_eq!(desk.read("web.toml"), WEB);
    assert!(desk.ok("mask", &["ghost"]).starts_with("ghost: masked by "));
    assert_eq!(fs::read_link(desk.file("ghost.toml")).unwrap(), Path::new("/dev/null"));
    assert_eq!(desk.ok("mask", &["ghost"]), "ghost: masked already\n");
    assert_eq!(desk.run("cat", &["ghost"]).0, 4);
    desk.ok("unmask", &["ghost"]);
    assert!(desk.file("ghost.toml").symlink_metadata().is_err());
    assert_eq!(desk.run("unmask", &["ghost"]).0, 4);
    assert_eq!(desk.ok("unmask", &["web"]), "web: not masked\n");
}
