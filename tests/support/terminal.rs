//! A terminal of a certain size with a shell in it, looked at and typed into: tmux(1), which no one but the test talks to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use super::{LONG, World, scaled, wait_until, world::describe};

/// What the shell asks with.
pub const PROMPT: &str = "# ";

/// See the module.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
    path: String,
}

impl Terminal {
    /// Begins one. `path` is where its shell finds programs, `env` more of its environment.
    ///
    /// # Panics
    /// If there is none.
    pub fn open(world: &World, (width, height): (u16, u16), path: &str, env: &[&str]) -> Self {
        let terminal = Self { socket: world.dir().join("tmux"), path: path.to_owned() };
        let [width, height] = [width, height].map(|cells| cells.to_string());
        // Everything that is bigger than the window is what somebody types at the end of: no status line below.
        let options = [
            "start-server",
            ";",
            "set",
            "-g",
            "status",
            "off",
            ";",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
        ];
        let shell = ["env", "-i", "TERM=tmux-256color", "LC_ALL=C.UTF-8"].map(str::to_owned).into_iter();
        let shell = shell.chain([format!("PATH={path}"), format!("PS1={PROMPT}")]);
        let shell = shell.chain(env.iter().map(|pair| (*pair).to_owned())).chain(["sh".to_owned()]);
        let mut begin = terminal.tmux(&options);
        begin.args(shell);
        assert_done(&begin.output().expect("tmux"));
        terminal.wait("a prompt", |lines| lines.first().is_some_and(|line| line.starts_with(PROMPT.trim())));
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.env_clear().env("PATH", &self.path).env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color");
        tmux.arg("-u").arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(args);
        tmux
    }

    fn ask(&self, args: &[&str]) -> String {
        let output = self.tmux(args).output().expect("tmux");
        assert_done(&output);
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Presses keys, by tmux's names for them.
    pub fn press(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Types a line, and the key at its end.
    pub fn type_line(&self, text: &str) {
        self.ask(&["send-keys", "-l", text]);
        self.press(&["Enter"]);
    }

    /// What is on the screen, a string a line, without blanks at the end.
    pub fn lines(&self) -> Vec<String> {
        self.ask(&["capture-pane", "-p"]).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// The same, and what has gone off the screen at its upper end.
    pub fn history(&self) -> Vec<String> {
        self.ask(&["capture-pane", "-p", "-S", "-"]).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// The same with the colours, as escape sequences.
    pub fn coloured(&self) -> String {
        self.ask(&["capture-pane", "-p", "-e"])
    }

    /// Its device.
    pub fn tty(&self) -> String {
        self.ask(&["display-message", "-p", "#{pane_tty}"]).trim().to_owned()
    }

    /// What a terminal's owner would see in its title.
    pub fn title(&self) -> String {
        self.ask(&["display-message", "-p", "#{pane_title}"]).trim().to_owned()
    }

    /// Makes the window another size.
    pub fn resize(&self, (width, height): (u16, u16)) {
        self.ask(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// Waits until the screen is so.
    ///
    /// # Panics
    /// If it is not within half a minute: with what is on it.
    pub fn wait(&self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let lines = self.lines();
            if is_so(&lines) {
                return lines;
            }
            assert!(begun.elapsed() < scaled(LONG), "no {what}:\n{}", lines.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a line that has all of these in it.
    pub fn wait_line(&self, parts: &[&str]) -> String {
        let has_all = |line: &String| parts.iter().all(|part| line.contains(part));
        let lines = self.wait(&format!("line with {parts:?}"), |lines| lines.iter().any(has_all));
        lines.into_iter().find(has_all).expect("it was waited for")
    }

    /// Makes a picture of the screen for the docs, when they are written.
    pub fn picture(&self, name: &str) {
        if std::env::var_os("PALISADE_WRITE_DOCS").is_none() {
            return;
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
        fs::create_dir_all(&dir).expect("our own directory");
        let text = self.coloured();
        fs::write(dir.join(format!("{name}.svg")), anstyle_svg::Term::new().render_svg(text.trim_end()))
            .expect("our own directory");
    }

    /// Ends everything in it.
    pub fn close(self) {
        self.ask(&["kill-server"]);
        wait_until("tmux is gone", LONG, || !self.tmux(&["ls"]).output().expect("tmux").status.success());
        let _ = fs::remove_file(&self.socket);
    }
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", describe(output));
}
