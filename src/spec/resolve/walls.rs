//! `[security]`: the walls that the host has beside its namespaces, or has not.

use super::{Reader, defaults};
use crate::{
    config::{schema::Text, value::Refusal},
    spec::{Landlock, Namespaces, Rootfs},
};

const LANDLOCK: &[(&str, Landlock)] =
    &[("auto", Landlock::Auto), ("require", Landlock::Require), ("off", Landlock::Off)];

/// `security.landlock`.
pub(super) fn landlock(reader: &mut Reader<'_>, namespaces: &Namespaces) -> Landlock {
    let text = &reader.file.tables.security.landlock;
    let Some(landlock) = reader.word("security.landlock", text, LANDLOCK) else { return Landlock::Auto };
    if let (Landlock::Require, Some(text)) = (landlock, text) {
        if reader.host.landlock == 0 {
            let refusal = Refusal::new("`landlock = \"require\"`, and the running kernel has no Landlock");
            let hint = "boot with `lsm=landlock,...` (Linux 5.13 or newer), or write \"auto\"";
            reader.refuse(text.span(), refusal.hint(hint));
        }
        if namespaces.nested {
            let refusal =
                Refusal::new("inside a Landlock domain nothing can be mounted, not even by who is nested");
            reader.refuse(text.span(), refusal.hint("leave `landlock` out, or `namespaces.nested`"));
        }
    }
    landlock
}

/// `security.no_namespaces`.
pub(super) fn no_namespaces(reader: &mut Reader<'_>, namespaces: &Namespaces) -> bool {
    let Some(key) = &reader.file.tables.security.no_namespaces else { return defaults::NO_NAMESPACES };
    if *key.get_ref() && namespaces.nested {
        let refusal = Refusal::new("`no_namespaces = true` denies what `namespaces.nested = true` is for");
        reader.refuse(key.span(), refusal.hint("leave one of the two out"));
    }
    *key.get_ref()
}

/// `security.apparmor`.
pub(super) fn apparmor(reader: &mut Reader<'_>, rootfs: &Rootfs) -> Option<String> {
    label(
        reader,
        &reader.file.tables.security.apparmor,
        ("apparmor", "AppArmor", reader.host.apparmor),
        rootfs,
    )
}

/// `security.selinux`.
pub(super) fn selinux(reader: &mut Reader<'_>, rootfs: &Rootfs) -> Option<String> {
    label(reader, &reader.file.tables.security.selinux, ("selinux", "SELinux", reader.host.selinux), rootfs)
}

/// The name of a profile or label; what it stands for is the security module's to say.
fn label(
    reader: &mut Reader<'_>,
    text: &Option<Text>,
    (key, module, is_on): (&str, &str, bool),
    rootfs: &Rootfs,
) -> Option<String> {
    let text = text.as_ref()?;
    let label = reader.line(text)?;
    let refusal = if label.is_empty() || label.len() > 4000 {
        Refusal::new(format!("{label:?} is no {module} label")).hint("write its name, or leave the key out")
    } else if !is_on {
        Refusal::new(format!("`{key}` needs {module}, which is not switched on on this host"))
            .hint(format!("boot with {module}, or leave `{key}` out"))
    } else if !rootfs.proc {
        Refusal::new(format!("`{key}` is set through /proc, and the service has none"))
            .hint("leave `rootfs.proc` out")
    } else {
        return Some(label);
    };
    reader.refuse(text.span(), refusal);
    None
}
