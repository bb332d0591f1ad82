//! `[rootfs]`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::Reader;
use crate::{
    config::{
        schema::{MountTable, Text, TmpfsTable, WordOrList},
        value::{self, Refusal},
    },
    spec::{Base, Dev, Mount, Rootfs, Tmpfs, Writable, defaults},
};

#[derive(Clone, Copy, PartialEq)]
enum BaseWord {
    Host,
    Dir,
    None,
    Image,
}

const BASES: &[(&str, BaseWord)] =
    &[("host", BaseWord::Host), ("dir", BaseWord::Dir), ("none", BaseWord::None), ("image", BaseWord::Image)];
const WRITABLE: &[(&str, Writable)] =
    &[("no", Writable::No), ("ephemeral", Writable::Ephemeral), ("persistent", Writable::Persistent)];
const OWN: &[(&str, bool)] = &[("own", true), ("none", false)];

pub(super) fn rootfs(reader: &mut Reader<'_>) -> Rootfs {
    let table = &reader.file.tables.rootfs;
    let base = base(reader);
    let writable = reader.word("rootfs.writable", &table.writable, WRITABLE).unwrap_or(defaults::WRITABLE);
    let mounts: Vec<(Mount, &Spanned<MountTable>)> =
        table.mounts.iter().flatten().filter_map(|entry| Some((mount(reader, entry)?, entry))).collect();
    let tmpfs: Vec<(Tmpfs, &Spanned<TmpfsTable>)> =
        table.tmpfs.iter().flatten().filter_map(|entry| Some((tmpfs(reader, entry)?, entry))).collect();
    let mut taken: BTreeSet<PathBuf> = BTreeSet::new();
    let places = mounts.iter().map(|(mount, entry)| (&mount.dst, entry.span()));
    for (dst, span) in places.chain(tmpfs.iter().map(|(tmpfs, entry)| (&tmpfs.dst, entry.span()))) {
        if !taken.insert(dst.clone()) {
            let message = format!("two entries have the destination {dst:?}");
            reader.refuse(span, Refusal::new(message).hint("the second would hide the first: leave one out"));
        }
    }
    let default_tmpfs = defaults::TMPFS
        .iter()
        .map(|&(dst, size, mode)| Tmpfs { dst: PathBuf::from(dst), size, mode, exec: false })
        .filter(|tmpfs| !taken.contains(&tmpfs.dst));
    Rootfs {
        base,
        writable,
        tmpfs: default_tmpfs.chain(tmpfs.into_iter().map(|(tmpfs, _)| tmpfs)).collect(),
        mounts: mounts.into_iter().map(|(mount, _)| mount).collect(),
        hide: inner_paths(reader, &table.hide),
        read_only: reader.paths(&table.read_only),
        dev: dev(reader),
        proc: reader.word("rootfs.proc", &table.proc, OWN).unwrap_or(true),
        sys: reader.word("rootfs.sys", &table.sys, OWN).unwrap_or(true),
    }
}

fn base(reader: &mut Reader<'_>) -> Base {
    let table = &reader.file.tables.rootfs;
    let word = reader.word("rootfs.base", &table.base, BASES).unwrap_or(BaseWord::Host);
    let dir = table.dir.as_ref().and_then(|text| reader.path(text));
    match (word, &table.base, &table.dir) {
        (BaseWord::Image, Some(base), _) => {
            let refusal = Refusal::new("a root made from an image is not a feature of this version yet");
            reader.refuse(base.span(), refusal.hint("unpack the image and write `base = \"dir\"`"));
        }
        (BaseWord::Dir, Some(base), None) => {
            let refusal = Refusal::new("`base = \"dir\"` does not say which directory");
            reader.refuse(base.span(), refusal.hint("add `dir`, the path of the tree on the host"));
        }
        (BaseWord::Host | BaseWord::None, _, Some(dir)) => {
            let refusal = Refusal::new("`dir` is the root of `base = \"dir\"` alone");
            reader.refuse(dir.span(), refusal.hint("add `base = \"dir\"`, or leave `dir` out"));
        }
        (BaseWord::Dir, _, Some(text)) if dir.as_deref() == Some(Path::new("/")) => {
            let refusal = Refusal::new("the host's own / cannot be the root of a service");
            reader.refuse(
                text.span(),
                refusal.hint("leave `base` and `dir` out for a read-only view of the host's /usr"),
            );
        }
        _ => {}
    }
    match word {
        BaseWord::Dir => Base::Dir(dir.unwrap_or_default()),
        BaseWord::None => Base::None,
        BaseWord::Host | BaseWord::Image => Base::Host,
    }
}

/// A path inside that something is mounted on: anything but `/` itself.
fn inner_path(reader: &mut Reader<'_>, text: &Text) -> Option<PathBuf> {
    let path = reader.path(text)?;
    let checked = match path == Path::new("/") {
        true => {
            Err(Refusal::new("this cannot be the / of the service").hint("`base` says what / is made from"))
        }
        false => Ok(path),
    };
    reader.take(text.span(), checked)
}

fn inner_paths(reader: &mut Reader<'_>, list: &Option<Vec<Text>>) -> Vec<PathBuf> {
    list.iter().flatten().filter_map(|text| inner_path(reader, text)).collect()
}

fn mount(reader: &mut Reader<'_>, entry: &Spanned<MountTable>) -> Option<Mount> {
    let table = entry.get_ref();
    if table.src.is_none() {
        let refusal = Refusal::new("the mount has no `src`").hint("add the path on the host");
        reader.refuse(entry.span(), refusal);
    }
    if table.dst.is_none() {
        let refusal = Refusal::new("the mount has no `dst`").hint("add the path inside");
        reader.refuse(entry.span(), refusal);
    }
    let src = table.src.as_ref().and_then(|text| reader.path(text));
    let dst = table.dst.as_ref().and_then(|text| inner_path(reader, text));
    Some(Mount {
        src: src?,
        dst: dst?,
        ro: table.ro.unwrap_or(true),
        idmap: table.idmap.unwrap_or(true),
        exec: table.exec.unwrap_or(false),
        optional: table.optional.unwrap_or(false),
    })
}

fn tmpfs(reader: &mut Reader<'_>, entry: &Spanned<TmpfsTable>) -> Option<Tmpfs> {
    let table = entry.get_ref();
    let Some(dst) = &table.dst else {
        let refusal = Refusal::new("the tmpfs has no `dst`").hint("add the path inside");
        reader.refuse(entry.span(), refusal);
        return None;
    };
    let dst = inner_path(reader, dst);
    let default = defaults::TMPFS.iter().find(|(path, ..)| dst.as_deref() == Some(Path::new(path)));
    let (_, default_size, default_mode) =
        default.copied().unwrap_or(("", defaults::TMPFS_SIZE, defaults::TMPFS_MODE));
    let size = table.size.as_ref().and_then(|size| {
        reader.checked(size, |size| match value::parse_size(size, None)? {
            // tmpfs(5): a size of 0 is no limit at all.
            0 => Err(Refusal::new("a size of 0 would be no limit").hint("write a size, such as \"64M\"")),
            size => Ok(size),
        })
    });
    let mode = table.mode.as_ref().and_then(|text| reader.checked(text, |text| value::parse_octal(text)));
    Some(Tmpfs {
        dst: dst?,
        size: size.unwrap_or(default_size),
        mode: mode.unwrap_or(default_mode),
        exec: table.exec.unwrap_or(false),
    })
}

fn dev(reader: &mut Reader<'_>) -> Dev {
    let Some(value) = &reader.file.tables.rootfs.dev else { return Dev::Minimal(Vec::new()) };
    match value.get_ref() {
        WordOrList::Word(word) if word == "minimal" => Dev::Minimal(Vec::new()),
        WordOrList::Word(word) if word == "host" => Dev::Host,
        WordOrList::Word(word) => {
            let refusal = Refusal::new(format!("{word:?} is not a value of `rootfs.dev`"));
            reader
                .refuse(value.span(), refusal.hint("write \"minimal\", \"host\", or a list of device nodes"));
            Dev::Minimal(Vec::new())
        }
        WordOrList::List(list) => Dev::Minimal(list.iter().filter_map(|text| device(reader, text)).collect()),
    }
}

fn device(reader: &mut Reader<'_>, text: &Text) -> Option<PathBuf> {
    let path = reader.path(text)?;
    let inside = path.starts_with("/dev") && path != Path::new("/dev");
    let refusal =
        || Refusal::new(format!("{path:?} is not a device node")).hint("device nodes are below /dev");
    let checked = if inside { Ok(path.clone()) } else { Err(refusal()) };
    reader.take(text.span(), checked)
}
