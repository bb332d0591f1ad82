//! `service.condition`, `pre_start`, `post_start`, `pre_stop`, `post_stop`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::{Reader, service};
use crate::{
    config::{
        schema::{HookTable, HookText, HooksText, WordOrList},
        value::Refusal,
    },
    spec::{Base, Hook, Hooks, Kind, Stage, UserNamespace, later},
};

/// What the commands depend on beside their own lines.
pub(super) struct Around<'a> {
    /// The service's environment.
    pub(super) env: &'a BTreeMap<String, String>,
    /// What its root is made of.
    pub(super) base: &'a Base,
    /// Whose ids it has.
    pub(super) ids: &'a UserNamespace,
    /// When it has started.
    pub(super) kind: Kind,
}

pub(super) fn hooks(reader: &mut Reader<'_>, around: &Around<'_>) -> Hooks {
    let table = &reader.file.tables.service;
    let mut list = |stage: Stage, text: &Option<Spanned<HooksText>>| {
        let Some(text) = text else { return Vec::new() };
        usable(reader, stage, text, around.kind);
        let items = &text.get_ref().0;
        ambiguous(reader, stage, items);
        let mut env = around.env.clone();
        env.extend(stage.told().iter().map(|name| ((*name).to_owned(), later(name))));
        let around = Around { env: &env, ..*around };
        items.iter().filter_map(|item| hook(reader, item, &around)).collect()
    };
    Hooks {
        condition: list(Stage::Condition, &table.condition),
        pre_start: list(Stage::PreStart, &table.pre_start),
        post_start: list(Stage::PostStart, &table.post_start),
        pre_stop: list(Stage::PreStop, &table.pre_stop),
        post_stop: list(Stage::PostStop, &table.post_stop),
    }
}

/// Where a stage never comes, or its commands have nowhere to write to.
fn usable(reader: &mut Reader<'_>, stage: Stage, text: &Spanned<HooksText>, kind: Kind) {
    let table = &reader.file.tables.service;
    if table.tty.as_ref().is_some_and(|tty| *tty.get_ref()) {
        let message = format!("with `tty = true` there is no log that `{}` could write to", stage.key());
        reader.refuse(text.span(), Refusal::new(message).hint("leave `tty` out, or the commands"));
    }
    if stage == Stage::PostStart && kind == Kind::Oneshot {
        let refusal = Refusal::new("a oneshot has started when it has ended: nothing runs beside it then");
        reader
            .refuse(text.span(), refusal.hint("write `post_stop`, or another service that comes `after` it"));
    }
}

/// `["/bin/a", "--b"]` is two commands here, and one where a key takes a single command.
fn ambiguous(reader: &mut Reader<'_>, stage: Stage, items: &[Spanned<HookText>]) {
    for item in items.iter().skip(1) {
        if let HookText::Line(line) = item.get_ref()
            && !line.starts_with('/')
        {
            let message = format!("{line:?} is a command of its own here, and begins with no path");
            let key = stage.key().trim_start_matches("service.");
            let hint = format!(
                "write `{key} = [[\"/the/program\", \"an argument\"]]` for one command with arguments"
            );
            reader.refuse(item.span(), Refusal::new(message).hint(hint));
        }
    }
}

fn hook(reader: &mut Reader<'_>, item: &Spanned<HookText>, around: &Around<'_>) -> Option<Hook> {
    let none = HookTable::default();
    let (command, table) = match item.get_ref() {
        HookText::Line(line) => (Spanned::new(item.span(), WordOrList::Word(line.clone())), &none),
        HookText::Argv(argv) => (Spanned::new(item.span(), WordOrList::List(argv.clone())), &none),
        HookText::Table(table) => match &table.command {
            Some(command) => (command.clone(), table),
            None => {
                let refusal = Refusal::new("this table has no `command`");
                reader.refuse(item.span(), refusal.hint("add `command = [\"/path/of/the/program\"]`"));
                return None;
            }
        },
    };
    let argv = reader.command(&command, around.env);
    let is_privileged = table.privileged.as_ref().is_some_and(|privileged| *privileged.get_ref());
    let user = table.user.as_ref().and_then(|user| {
        if is_privileged {
            let refusal = Refusal::new("a privileged command runs on the host, as root");
            reader.refuse(user.span(), refusal.hint("leave `user` or `privileged` out"));
            return None;
        }
        service::hook_user(reader, user, around.base, around.ids)
    });
    let argv = argv?;
    if is_privileged && !argv[0].starts_with('/') {
        let refusal = Refusal::new(format!("{:?} is no path of a program of the host", argv[0]));
        reader.refuse(command.span(), refusal.hint("a privileged command is found by its path alone"));
    }
    let timeout = reader.duration(&table.timeout).flatten();
    let zero = table.timeout.as_ref().filter(|_| timeout.is_some_and(|timeout| timeout.is_zero()));
    if let Some(zero) = zero {
        let refusal = Refusal::new("a command that has no time cannot succeed");
        reader.refuse(zero.span(), refusal.hint("write a duration, or leave `timeout` out"));
    }
    Some(Hook {
        command: argv,
        user,
        ignore_failure: table.ignore_failure.unwrap_or(false),
        privileged: is_privileged,
        timeout,
    })
}
