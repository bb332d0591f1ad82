//! A small static web program, so that the example services need nothing but this package.
//!
//! ```text
//! web serve PORT [SOCKET]   HTTP: / /ps /addr /root, and /count where SOCKET leads to a `web count`
//! web count SOCKET          the database: counts its callers, on a Unix socket
//! web greet NAME            says hello and ends
//! web crash                 gives up after a moment, as programs do
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its log")]

use std::{
    fs, io,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    process::ExitCode,
    time::Duration,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port, None),
        ["serve", port, socket] => serve(port, Some(socket)),
        ["count", socket] => count(socket),
        ["greet", name] => {
            println!("hello, {name}");
            Ok(())
        }
        ["crash"] => Err(io::Error::other("out of cheese")),
        _ => {
            eprintln!("usage: web serve PORT [SOCKET] | count SOCKET | greet NAME | crash");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("web: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Answers HTTP on `port` of every address, one connection after the other.
fn serve(port: &str, database: Option<&str>) -> io::Result<()> {
    let port = port.parse().map_err(|_| io::Error::other(format!("{port} is no port")))?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("serving port {port}");
    for stream in listener.incoming() {
        if let Err(e) = stream.and_then(|stream| answer(stream, database)) {
            eprintln!("web: a client went away: {e}");
        }
    }
    Ok(())
}

/// Reads one request and answers it.
fn answer(mut stream: TcpStream, database: Option<&str>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // A request longer than this is nobody's.
    let mut reader = BufReader::new(stream.try_clone()?.take(16384));
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 0 && !header.trim().is_empty() {
        header.clear();
    }
    let (status, body) = match (request.split(' ').nth(1).unwrap_or_default(), database) {
        ("/", _) => ("200 OK", fs::read_to_string("/proc/sys/kernel/hostname")?),
        ("/ps", _) => ("200 OK", processes()?),
        ("/addr", _) => ("200 OK", addresses()?),
        ("/root", _) => ("200 OK", names("/")?.join("\n") + "\n"),
        ("/count", Some(socket)) => match ask(socket) {
            Ok(count) => ("200 OK", count),
            Err(e) => ("503 Service Unavailable", format!("{socket}: {e}\n")),
        },
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The database's answer.
fn ask(socket: &str) -> io::Result<String> {
    let mut text = String::new();
    UnixStream::connect(socket)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Counts callers on a Unix socket, which is the one way from service to service that needs no network.
fn count(socket: &str) -> io::Result<()> {
    // The one that the run before left.
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    // Whoever is shown the directory may ask.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    println!("counting on {socket}");
    let mut count: u64 = 0;
    for stream in listener.incoming() {
        count += 1;
        writeln!(stream?, "{count}")?;
    }
    Ok(())
}

/// Every process that can be seen: pid and name.
fn processes() -> io::Result<String> {
    let mut text = String::new();
    for name in names("/proc")? {
        if name.parse::<u32>().is_ok() {
            let comm = fs::read_to_string(format!("/proc/{name}/comm")).unwrap_or_default();
            text += &format!("{name} {}\n", comm.trim());
        }
    }
    Ok(text)
}

/// Links from `/proc/net/dev`, then own addresses from the local routes of `/proc/net/fib_trie`.
fn addresses() -> io::Result<String> {
    let links = fs::read_to_string("/proc/net/dev")?;
    let mut text: String =
        links.lines().filter_map(|l| l.split_once(':')).map(|(l, _)| format!("{}\n", l.trim())).collect();
    let mut address = "";
    let mut seen = Vec::new();
    let routes = fs::read_to_string("/proc/net/fib_trie")?;
    for line in routes.lines().map(str::trim) {
        match line.strip_prefix("|-- ") {
            Some(next) => address = next,
            None if line == "/32 host LOCAL" && !seen.contains(&address) => {
                seen.push(address);
                text += &format!("{address}\n");
            }
            None => {}
        }
    }
    Ok(text)
}

/// The sorted names in a directory.
fn names(dir: &str) -> io::Result<Vec<String>> {
    let names: io::Result<Vec<_>> =
        fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}
