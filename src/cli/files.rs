//! The verbs that read and write service files: they need no supervisor, and what they change holds with the next
//! `palisade apply`.

use std::{
    collections::BTreeSet,
    fs, io,
    io::{BufRead, IsTerminal, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{Exit, Global, output, progress::Progress, put::put, verbs, wiring};
use crate::{
    config::{
        self, Diagnostic, Location, Sources,
        written::{Setting, Value, Written},
    },
    control::{
        client::Client,
        proto::{Method, Names},
        types::Changes,
    },
    report,
    spec::{HostFacts, UnitName},
    sys,
};

/// What `new` writes; NAME and COMMAND stand for those.
const STARTER: &str = include_str!("starter.toml");
/// The drop-in of `enable` and `disable`, behind those of most people.
const ENABLED: &str = "90-enabled.toml";
/// The drop-in that `edit` makes.
const EDITED: &str = "50-local.toml";
/// What is tried where no variable names an editor.
const EDITORS: [&str; 4] = ["editor", "nano", "vim", "vi"];

/// Which services, and where their files are.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// Names of services
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Read and write the service files of this directory alone
    #[arg(long, value_name = "DIR")]
    services: Option<PathBuf>,
}

/// As [`Which`], for what may hold at once.
#[derive(Clone, Debug, clap::Args)]
pub struct Switch {
    /// Apply what the files say now, as `palisade apply` does, and start or stop these services
    #[arg(long)]
    now: bool,
    /// See there.
    #[command(flatten)]
    which: Which,
}

/// What `new` writes.
#[derive(Clone, Debug, clap::Args)]
pub struct NewOptions {
    /// Print it instead
    #[arg(long)]
    stdout: bool,
    /// Read and write the service files of this directory alone
    #[arg(long, value_name = "DIR")]
    services: Option<PathBuf>,
    /// The name of the service
    name: String,
    /// Its command and the arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What `edit` opens.
#[derive(Clone, Debug, clap::Args)]
pub struct EditOptions {
    /// A drop-in beside the file, as is done where the file came with a package
    #[arg(long)]
    drop_in: bool,
    /// A copy of the whole file, where it came with a package
    #[arg(long, conflicts_with = "drop_in")]
    full: bool,
    /// Read and write the service files of this directory alone
    #[arg(long, value_name = "DIR")]
    services: Option<PathBuf>,
    /// The name of the service
    name: String,
}

/// What to do with them.
#[derive(Debug, clap::Subcommand)]
pub enum FileVerb {
    /// Show the files of services: each with its drop-ins, as they are
    Cat(Which),
    /// Show what the files of services say together: every key that one of them has, and of the profile and `[defaults]`
    /// below them
    Show {
        /// And where each of them is written
        #[arg(long)]
        origin: bool,
        /// See there.
        #[command(flatten)]
        which: Which,
    },
    /// Write a service file to begin with
    New(NewOptions),
    /// Open a service file in $VISUAL or $EDITOR; it is checked before it is written, and of one that came with a package
    /// a drop-in in /etc is opened
    Edit(EditOptions),
    /// Have services start by themselves
    Enable(Switch),
    /// Have services not start by themselves
    Disable(Switch),
    /// Hide service files that came with a package: nobody starts those services, by name or because another needs them
    Mask(Switch),
    /// Have masked service files count again
    Unmask(Switch),
}

/// Why nothing, or nothing more, was done.
enum Trouble {
    /// No file says anything of it: its name, the names that have one, and where they are.
    NoSuchService(String, Vec<String>, Vec<PathBuf>),
    /// What is wrong with files.
    Wrong(Vec<Diagnostic>),
    /// In words.
    Said(String),
    /// A file could not be read or written.
    File(PathBuf, io::Error),
}

type Done<T = Exit> = Result<T, Trouble>;

/// The files, and where those of the operator are.
struct Files {
    sources: Sources,
    host: HostFacts,
}

/// Carries out one of these verbs.
pub(super) fn files(global: &Global, verb: FileVerb) -> Exit {
    let done = match verb {
        FileVerb::Cat(which) => Files::at(which.services.as_deref(), global).cat(&which.names),
        FileVerb::Show { origin, which } => {
            Files::at(which.services.as_deref(), global).show(&which.names, origin, global.json)
        }
        FileVerb::New(options) => Files::at(options.services.as_deref(), global).write_new(&options),
        FileVerb::Edit(options) => Files::at(options.services.as_deref(), global).edit(&options),
        FileVerb::Enable(switch) => {
            switched(global, &switch, Some(Method::Start), |files, name| files.enable(name, true))
        }
        FileVerb::Disable(switch) => {
            switched(global, &switch, Some(Method::Stop), |files, name| files.enable(name, false))
        }
        FileVerb::Mask(switch) => switched(global, &switch, None, Files::mask),
        FileVerb::Unmask(switch) => switched(global, &switch, Some(Method::Start), Files::unmask),
    };
    done.unwrap_or_else(|trouble| told(trouble, global.json))
}

fn told(trouble: Trouble, json: bool) -> Exit {
    match trouble {
        Trouble::NoSuchService(name, known, dirs) => {
            output::no_such_service(&name, known.iter().map(String::as_str), &dirs);
            Exit::NoSuchService
        }
        Trouble::Wrong(found) => wiring::refuse(&found, json),
        Trouble::Said(text) => {
            output::error(&text);
            Exit::Failed
        }
        Trouble::File(path, error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "; do it as root, or name files of your own with --services DIR"
                }
                _ => "",
            };
            output::error(&format!("{}: {error}{hint}", path.display()));
            Exit::Failed
        }
    }
}

/// Changes the files of each, and has a supervisor do the rest if that is wanted.
fn switched(
    global: &Global,
    switch: &Switch,
    method: Option<fn(Names) -> Method>,
    change: impl Fn(&Files, &UnitName) -> Done<String>,
) -> Done {
    let files = Files::at(switch.which.services.as_deref(), global);
    for name in &switch.which.names {
        let name = service(name)?;
        let line = change(&files, &name)?;
        say(&format!("{name}: {line}"))?;
    }
    if !switch.now {
        return Ok(Exit::Done);
    }
    let names = Names { names: switch.which.names.clone() };
    let applied = Client::connect(&global.run).and_then(|mut client| {
        let applied: Changes = Progress::new(global).call(&mut client, &Method::DaemonReload)?;
        let done = method.map(|method| Progress::new(global).call::<Changes>(&mut client, &method(names)));
        Ok(applied
            .changes
            .into_iter()
            .chain(done.transpose()?.into_iter().flat_map(|done| done.changes))
            .collect())
    });
    match applied {
        Ok(changes) => Ok(verbs::changed(&Changes { changes }, global.json)),
        Err(error) => {
            output::error(&verbs::told(&error, &global.run));
            Ok(verbs::exit_of(&error))
        }
    }
}

fn service(name: &str) -> Done<UnitName> {
    UnitName::new(name).map_err(Trouble::Said)
}

fn say(line: &str) -> Done<()> {
    match verbs::done(output::print(&format!("{}\n", output::escape(line)))) {
        Exit::Done => Ok(()),
        _ => Err(Trouble::Said("nothing more was done".to_owned())),
    }
}

impl Files {
    fn at(only: Option<&Path>, global: &Global) -> Self {
        let group = wiring::settings(&global.config).ok().and_then(|settings| settings.cgroup);
        Self { sources: wiring::sources(only, global), host: sys::facts::gather(group.as_deref()) }
    }

    fn read(&self, name: &UnitName) -> Done<Written> {
        let none = || {
            let loaded = config::load_with(&self.sources, &self.host, &BTreeSet::new());
            let known = loaded.files.keys().map(UnitName::to_string).collect();
            Trouble::NoSuchService(name.to_string(), known, self.sources.dirs.clone())
        };
        Written::read(name, &self.sources, &self.host).ok_or_else(none)
    }

    /// Where the operator's own files are.
    fn own(&self) -> &Path {
        &self.sources.dirs[0]
    }

    fn own_file(&self, name: &UnitName) -> PathBuf {
        self.own().join(format!("{name}.toml"))
    }

    fn drop_in(&self, name: &UnitName, file: &str) -> PathBuf {
        self.own().join(format!("{name}.toml.d")).join(file)
    }

    fn cat(&self, names: &[String]) -> Done {
        let mut blocks = Vec::new();
        for name in names {
            let written = self.read(&service(name)?)?;
            if written.texts().next().is_none() {
                return Err(Trouble::Wrong(written.found));
            }
            for (path, text) in written.texts() {
                let lines = text.lines().map(|line| format!("{}\n", output::escape(line)));
                let path = path.display().to_string();
                blocks.push(format!("# {}\n{}", output::escape(&path), lines.collect::<String>()));
            }
        }
        Ok(verbs::done(output::print(&blocks.join("\n"))))
    }

    fn show(&self, names: &[String], origin: bool, json: bool) -> Done {
        let mut all = Vec::new();
        for name in names {
            let name = service(name)?;
            let written = self.read(&name)?;
            if !written.found.is_empty() {
                return Err(Trouble::Wrong(written.found));
            }
            all.push((name, written.settings().map_err(Trouble::Wrong)?));
        }
        if json {
            let of = |(name, settings): &(UnitName, Vec<Setting>)| json!({ "name": name, "settings": settings.iter().map(as_json).collect::<Vec<_>>() });
            let services: Vec<_> = all.iter().map(of).collect();
            return Ok(verbs::done(output::json(&json!({ "services": services }))));
        }
        let is_one = all.len() == 1;
        let block = |(name, settings): &(UnitName, Vec<Setting>)| {
            let title = if is_one { String::new() } else { format!("# {name}\n") };
            title + &settings.iter().map(|setting| as_text(setting, origin)).collect::<String>()
        };
        Ok(verbs::done(output::print(&all.iter().map(block).collect::<Vec<_>>().join("\n"))))
    }

    fn write_new(&self, options: &NewOptions) -> Done {
        let name = service(&options.name)?;
        let command = match &options.command[..] {
            [] => "command = [\"/usr/bin/NAME\"]              # the program and its arguments; no shell reads this".into(),
            // TOML's strings are JSON's.
            command => format!("command = {}", json!(command)),
        };
        let text = STARTER.replace("COMMAND", &command).replace("NAME", name.as_str());
        if options.stdout {
            return Ok(verbs::done(output::print(&text)));
        }
        let known = Written::read(&name, &self.sources, &self.host).map(|written| written.file);
        if let Some(path) =
            known.or_else(|| Some(self.own_file(&name)).filter(|path| path.symlink_metadata().is_ok()))
        {
            let path = path.display();
            return Err(Trouble::Said(format!("{path} is there already; `palisade edit {name}` opens it")));
        }
        let path = self.own_file(&name);
        self.put(&path, &text)?;
        say(&format!("{}: written; `palisade edit {name}`, then `palisade apply`", path.display()))?;
        Ok(Exit::Done)
    }

    /// Writes a file, and makes the directory for it.
    fn put(&self, path: &Path, text: &str) -> Done<()> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        if !self.sources.required || dir != self.own() {
            fs::create_dir_all(dir).map_err(|error| Trouble::File(dir.to_owned(), error))?;
        }
        put(path, text).map(drop).map_err(|error| Trouble::File(path.to_owned(), error))
    }

    fn edit(&self, options: &EditOptions) -> Done {
        let name = service(&options.name)?;
        let written = self.read(&name)?;
        let is_own = written.file == self.own_file(&name);
        let (path, text) = match (is_own && !options.drop_in, options.full) {
            (true, _) => (written.file.clone(), None),
            // The copy hides what it was made from.
            (false, true) => (self.own_file(&name), written.texts().next().map(|(_, text)| text.to_owned())),
            (false, false) => (self.drop_in(&name, EDITED), Some(beside(&written))),
        };
        let before = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => text.unwrap_or_default(),
            Err(error) => return Err(Trouble::File(path, error)),
        };
        let Some(after) = self.edited(&written, &name, (&path, &before))? else {
            say(&format!("{}: not changed", path.display()))?;
            return Ok(Exit::Done);
        };
        self.put(&path, &after)?;
        say(&format!(
            "{}: written; `palisade plan` shows what that changes, `palisade apply` does it",
            path.display()
        ))?;
        Ok(Exit::Done)
    }

    /// What an editor has made of a text; none: nothing that is to be written.
    fn edited(
        &self,
        written: &Written,
        name: &UnitName,
        (path, before): (&Path, &str),
    ) -> Done<Option<String>> {
        let dir = std::env::temp_dir().join("palisade-edit.XXXXXX");
        let dir = nix::unistd::mkdtemp(&dir).map_err(|errno| Trouble::File(dir, errno.into()))?;
        let file = dir.join(path.file_name().unwrap_or_default());
        let edited = self.edited_in(&file, written, name, (path, before));
        let _ = fs::remove_dir_all(&dir);
        edited
    }

    fn edited_in(
        &self,
        file: &Path,
        written: &Written,
        name: &UnitName,
        (path, before): (&Path, &str),
    ) -> Done<Option<String>> {
        let failed = |error| Trouble::File(file.to_owned(), error);
        fs::write(file, before).map_err(failed)?;
        loop {
            open_editor(file)?;
            let text = fs::read_to_string(file).map_err(failed)?;
            // A drop-in that says nothing is none.
            if text == before || (text.trim().is_empty() && !path.exists()) {
                return Ok(None);
            }
            let Err(found) = written.with(path, &text).check(name, &self.sources, &self.host) else {
                return Ok(Some(text));
            };
            output::diagnostics(&report::render(&found, output::is_coloured()));
            match asked("[e]dit again, [w]rite it all the same, or [q]uit without a change? ") {
                Some('e') => {}
                Some('w') => return Ok(Some(text)),
                Some(_) => return Ok(None),
                None => return Err(Trouble::Said(format!("{}: not changed", path.display()))),
            }
        }
    }

    /// Has a service start by itself, or not: by a drop-in of our own, where its files say otherwise.
    fn enable(&self, name: &UnitName, wanted: bool) -> Done<String> {
        let written = self.read(name)?;
        if wanted && name.is_instance() && written.file != self.own_file(name) {
            let template = written.file.display();
            return Err(Trouble::Said(format!(
                "{name} is an instance: name it in `unit.instances` of {template}, and it starts by itself"
            )));
        }
        let drop_in = self.drop_in(name, ENABLED);
        let said = |written: &Written| -> Done<(bool, Option<Location>)> {
            let settings = written.settings().map_err(Trouble::Wrong)?;
            let found = settings.into_iter().find(|setting| setting.key == "unit.enabled");
            let is_enabled = found.as_ref().is_none_or(|found| found.value != Value::One("false".to_owned()));
            Ok((is_enabled, found.map(|found| found.at)))
        };
        let done = if wanted { "enabled" } else { "disabled" };
        if said(&written)?.0 == wanted {
            return Ok(format!("{done} already"));
        }
        if drop_in.exists() {
            fs::remove_file(&drop_in).map_err(|error| Trouble::File(drop_in.clone(), error))?;
            // Others may be in it.
            let _ = drop_in.parent().map(fs::remove_dir);
        }
        if said(&self.read(name)?)?.0 != wanted {
            let verb = if wanted { "enable" } else { "disable" };
            let text = format!("# Of `palisade {verb} {name}`.\nunit.enabled = {wanted}\n");
            self.put(&drop_in, &text)?;
        }
        match said(&self.read(name)?)? {
            (now, Some(at)) if now != wanted => {
                Err(Trouble::Said(format!("{name} is not {done}: {at} has the last word")))
            }
            _ if wanted => Ok(format!("{done}; `palisade apply` starts it")),
            _ => Ok(format!("{done}; it runs on until `palisade stop {name}`")),
        }
    }

    fn mask(&self, name: &UnitName) -> Done<String> {
        let path = self.own_file(name);
        match fs::read_link(&path) {
            Ok(target) if target == Path::new("/dev/null") => return Ok("masked already".to_owned()),
            _ if path.symlink_metadata().is_ok() => {
                let path = path.display();
                return Err(Trouble::Said(format!(
                    "{path} is a file of its own, which a mask would replace: `palisade disable {name}`, or move it away"
                )));
            }
            _ => {}
        }
        if !self.sources.required {
            fs::create_dir_all(self.own()).map_err(|error| Trouble::File(self.own().to_owned(), error))?;
        }
        symlink("/dev/null", &path).map_err(|error| Trouble::File(path.clone(), error))?;
        Ok(format!("masked by {}; `palisade apply` stops it", path.display()))
    }

    fn unmask(&self, name: &UnitName) -> Done<String> {
        let path = self.own_file(name);
        if fs::read_link(&path).is_ok_and(|target| target == Path::new("/dev/null")) {
            fs::remove_file(&path).map_err(|error| Trouble::File(path.clone(), error))?;
            return Ok("not masked any more; `palisade apply` brings it back".to_owned());
        }
        self.read(name).map(|_| "not masked".to_owned())
    }
}

/// What a drop-in begins with: what it is laid on, as comments.
fn beside(written: &Written) -> String {
    let mut text = "# What is written here is laid on what follows; \"+key\" adds to a list.\n\n".to_owned();
    for (path, below) in written.texts() {
        text.push_str(&format!("\n# {}\n", path.display()));
        below.lines().for_each(|line| text.push_str(&format!("# {line}\n")));
    }
    text
}

/// Waits for the operator's editor.
fn open_editor(file: &Path) -> Done<()> {
    let named =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let is_there = |name: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    let editor = named.or_else(|| EDITORS.iter().copied().find(is_there).map(str::to_owned));
    let Some(editor) = editor else {
        return Err(Trouble::Said("there is no editor: name one in the variable EDITOR".to_owned()));
    };
    // The variable may hold arguments, and everybody's shell reads it.
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(file).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Trouble::Said(format!("{editor}: {status}; nothing was changed"))),
        Err(error) => Err(Trouble::File(PathBuf::from("sh"), error)),
    }
}

/// The first letter of an answer; none: nobody is there to answer.
fn asked(question: &str) -> Option<char> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let _ = write!(anstream::stderr(), "{question}");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).ok().filter(|count| *count > 0)?;
    Some(answer.trim().chars().next().map_or('e', |c| c.to_ascii_lowercase()))
}

fn as_json(setting: &Setting) -> serde_json::Value {
    let at = |at: &Location| json!({ "file": at.file.display().to_string(), "line": at.place.as_ref().map(|place| place.line) });
    let value = match &setting.value {
        Value::One(text) => json!(text),
        Value::List(items) => {
            let of = |(text, place): &(String, Location)| json!({ "value": text, "at": at(place) });
            items.iter().map(of).collect()
        }
    };
    json!({ "key": setting.key, "value": value, "at": at(&setting.at) })
}

/// A line of a service file; with `origin` followed by where it comes from.
fn as_text(setting: &Setting, origin: bool) -> String {
    let from = |at: &Location| match (&at.place, origin) {
        (_, false) => String::new(),
        (None, true) => format!("  # {}", at.file.display()),
        (Some(place), true) => format!("  # {}:{}", at.file.display(), place.line),
    };
    let text = match &setting.value {
        Value::One(text) => format!("{} = {text}{}", setting.key, from(&setting.at)),
        Value::List(items) if origin && items.iter().any(|(_, at)| at.file != setting.at.file) => {
            let items = items.iter().map(|(text, at)| format!("    {text},{}\n", from(at)));
            format!("{} = [\n{}]", setting.key, items.collect::<String>())
        }
        Value::List(items) => {
            let items: Vec<&str> = items.iter().map(|(text, _)| text.as_str()).collect();
            format!("{} = [{}]{}", setting.key, items.join(", "), from(&setting.at))
        }
    };
    text.lines().map(|line| format!("{}\n", output::escape(line))).collect()
}
