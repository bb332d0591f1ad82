//! Libraries that were replaced on the disk while processes of services go on with the old ones.
//!
//! Which ones a process has stands in proc_pid_maps(5). The kernel takes a lock of the memory of the process for it, and a
//! process can hold that for as long as it likes. The supervisor therefore does not look; whoever asks does, as far as
//! he may, and goes on without an answer after some time.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    sync::mpsc,
    thread,
    time::Duration,
};

use super::output;
use crate::control::types::ServiceStatus;

/// How long one process may take to be read.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is not on the disk of anybody, or is made to be removed at once: memory under the name of a file, and the code
/// that libraries such as libffi make while they run.
const NOT_ON_DISK: [&str; 7] = ["/memfd:", "/dev/", "/SYSV", "/tmp/", "/var/tmp/", "/run/", "anon_inode:"];

/// Adds to each service the libraries for which it needs a restart.
pub(super) fn look(services: &mut [ServiceStatus]) {
    let processes = services.iter().enumerate();
    let processes =
        processes.flat_map(|(n, service)| service.processes.iter().map(move |process| (n, process.pid)));
    let (found, silent) = read_all(processes.collect(), libraries, PATIENCE);
    for (n, path) in found {
        let reason = format!("library {path} was replaced or removed on the disk since it was loaded");
        services[n].restart_needed.push(reason);
    }
    for (n, pid) in silent {
        let name = &services[n].name;
        output::error(&format!(
            "{name}: process {pid} does not let its libraries be read: whether they were replaced is not known"
        ));
    }
}

/// A service, by its place in a list, and one of its processes.
type Place = (usize, i32);

/// What `read` finds in each process, by service, and who did not answer in time; of a service with one of those no others are asked.
fn read_all(
    processes: VecDeque<Place>,
    read: impl Fn(i32) -> BTreeSet<String> + Copy + Send + 'static,
    patience: Duration,
) -> (BTreeSet<(usize, String)>, Vec<Place>) {
    let (mut left, mut found, mut silent) = (processes, BTreeSet::new(), Vec::new());
    while !left.is_empty() {
        let (said, hear) = mpsc::channel();
        let pids: Vec<i32> = left.iter().map(|(_, pid)| *pid).collect();
        // A reader that hangs is left behind: it ends with this program.
        thread::spawn(move || pids.into_iter().try_for_each(|pid| said.send(read(pid))));
        while let Some((n, pid)) = left.pop_front() {
            let Ok(paths) = hear.recv_timeout(patience) else {
                silent.push((n, pid));
                left.retain(|(other, _)| *other != n);
                break;
            };
            found.extend(paths.into_iter().map(|path| (n, path)));
        }
    }
    (found, silent)
}

/// The libraries of a process that have no name on the disk any more; none, if the caller may not look.
fn libraries(pid: i32) -> BTreeSet<String> {
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    deleted(&String::from_utf8_lossy(&maps), &program.to_string_lossy())
}

/// The files that are gone from the disk and that code comes from: proc_pid_maps(5). The program itself is not among them.
fn deleted(maps: &str, program: &str) -> BTreeSet<String> {
    let path = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let flags = fields.nth(1)?;
        let path = fields.nth(3)?.trim_start();
        let is_code = flags.contains('x') && path != program;
        let name = path.strip_suffix(" (deleted)").filter(|_| is_code)?;
        let is_on_disk = !NOT_ON_DISK.iter().any(|start| name.starts_with(start));
        is_on_disk.then(|| name.to_owned())
    };
    maps.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_that_are_gone_counts_and_nothing_else() {
        let maps = "\
55d1c0a00000-55d1c0a20000 r-xp 00002000 fe:00 131 /usr/sbin/web (deleted)
7f2a10000000-7f2a10020000 r--p 00000000 fe:00 140                        /usr/lib/libdata.so (deleted)
7f2a10100000-7f2a10120000 r-xp 00002000 fe:00 141                        /usr/lib/libz.so.1.2 (deleted)
7f2a10120000-7f2a10130000 r--p 00022000 fe:00 141                        /usr/lib/libz.so.1.2 (deleted)
7f2a10200000-7f2a10220000 r-xp 00002000 fe:00 142                        /usr/lib/libc.so.6
7f2a10300000-7f2a10320000 r-xp 00000000 fe:00 143                        /opt/my app/lib.so (deleted)
7f2a10400000-7f2a10401000 rwxp 00000000 00:01 7                          /memfd:jit (deleted)
7f2a10500000-7f2a10501000 r-xs 00000000 00:01 8                          /dev/zero (deleted)
7f2a10500000-7f2a10501000 r-xs 00000000 00:01 8                          /dev/shm/x (deleted)
7f2a10600000-7f2a10601000 r-xs 00000000 00:01 9                          /SYSV00000000 (deleted)
7f2a10700000-7f2a10701000 r-xs 00000000 fe:00 10                         /tmp/ffiqX1 (deleted)
7f2a10800000-7f2a10801000 r-xp 00000000 00:00 0
7f2a10900000-7f2a10901000 r-xp 00000000 00:00 0                          [vdso]
";
        let found: Vec<String> = deleted(maps, "/usr/sbin/web (deleted)").into_iter().collect();
        assert_eq!(found, ["/opt/my app/lib.so", "/usr/lib/libz.so.1.2"]);
        assert!(deleted(maps, "").contains("/usr/sbin/web"));
    }

    #[test]
    fn who_does_not_answer_holds_nobody_else_up() {
        let read = |pid| match pid {
            2 => loop {
                thread::park();
            },
            pid => BTreeSet::from([format!("/lib/{pid}")]),
        };
        // The others have it as well, on a machine that has much to do.
        let patience = 10 * PATIENCE;
        let (found, silent) = read_all([(0, 1), (1, 2), (1, 3), (2, 4)].into(), read, patience);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(0, "/lib/1".into()), (2, "/lib/4".into())]);
        assert_eq!(silent, [(1, 2)]);
    }
}
