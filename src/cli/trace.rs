//! What Palisade says about itself, on standard error: for a terminal or a file with the time, for systemd's journal as that
//! wants it.
//!
//! The journal notes the time by itself, and takes the level from a number in front of the line (sd-daemon(3)), so that
//! `journalctl -p err` finds what went wrong.

use std::{env, fmt, io};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Writer},
    },
    registry::LookupSpan,
};

use super::output;

/// Begins to write. To be called once.
pub(super) fn init() {
    let builder = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false);
    let stream = env::var("JOURNAL_STREAM").ok();
    match rustix::fs::fstat(io::stderr()) {
        Ok(stat) if is_journal(stream.as_deref(), stat.st_dev, stat.st_ino) => {
            builder.with_ansi(false).event_format(Journal).init();
        }
        _ => builder.with_ansi(output::is_coloured()).init(),
    }
}

/// Whether a descriptor on that device, with that inode, is the one of JOURNAL_STREAM (systemd.exec(5)). The variable alone
/// says nothing: whoever was started by a service has it as well, wherever his output goes.
fn is_journal(stream: Option<&str>, device: u64, inode: u64) -> bool {
    stream.is_some_and(|stream| stream == format!("{device}:{inode}"))
}

/// A line for the journal.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        let format = Format::default().without_time().with_level(false).with_target(false);
        format.format_event(context, Writer::new(&mut text), event)?;
        // Each line is an entry of its own there, and has a level of its own.
        let level = priority(*event.metadata().level());
        text.lines().filter(|line| !line.is_empty()).try_for_each(|line| writeln!(writer, "<{level}>{line}"))
    }
}

/// The number that syslog(3) has for it.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_level_in_front_of_each_line_and_no_time() {
        let written = Written::default();
        let to = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Journal)
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(unit = "web", run = 1, "active");
            tracing::warn!("no controller");
            tracing::error!("\n{}", "error: unknown key\n --> web.toml:1:1");
        });
        let bytes = written.0.lock().unwrap().clone();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "<6>active unit=\"web\" run=1\n<4>no controller\n<3>error: unknown key\n<3> --> web.toml:1:1\n"
        );
    }

    #[test]
    fn what_goes_elsewhere_is_not_the_journal() {
        assert!(is_journal(Some("8:1234"), 8, 1234));
        for stream in [None, Some(""), Some("8:12345"), Some("9:1234"), Some("8"), Some("8:1234\n")] {
            assert!(!is_journal(stream, 8, 1234), "{stream:?}");
        }
    }
}
