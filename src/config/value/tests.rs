use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    config::schema::Scalar,
    spec::{ExitMatch, Proto, UnitName},
};

fn text(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

fn millis(value: &str) -> Result<Option<u128>, String> {
    let duration = parse_duration(&text(value)).map_err(|refusal| refusal.message)?;
    Ok(duration.map(|duration| duration.as_millis()))
}

#[test]
fn durations_are_read() {
    for (value, expected) in [
        ("500ms", 500),
        ("5s", 5_000),
        ("5 s", 5_000),
        ("2min", 120_000),
        ("2m", 120_000),
        ("1h30m", 5_400_000),
        ("1h 30min", 5_400_000),
        ("1.5h", 5_400_000),
        ("1d", 86_400_000),
        ("1w", 604_800_000),
        ("90", 90_000),
        ("0.25", 250),
        ("0", 0),
        ("1500us", 1),
    ] {
        assert_eq!(millis(value), Ok(Some(expected)), "{value}");
    }
    assert_eq!(millis("infinity"), Ok(None));
    assert_eq!(parse_duration(&Scalar::Int(90)), Ok(Some(Duration::from_secs(90))));
    assert_eq!(parse_duration(&Scalar::Float(0.2)), Ok(Some(Duration::from_millis(200))));
}

#[test]
fn no_duration_is_refused() {
    for value in [
        "",
        " ",
        "s",
        "5 parsecs",
        "-5s",
        "+5s",
        "1h30",
        "5s-",
        "1..5s",
        "1.s",
        ".5s",
        "0x10",
        "1e3",
        "5 5",
        "∞",
        "inf",
        "99999999999999999999s",
        "36526d",
        "1.1234567890s",
    ] {
        assert!(millis(value).is_err(), "{value:?} was taken");
    }
    assert_eq!(millis("1month"), Err("\"month\" is not a unit of time".to_owned()));
    assert_eq!(millis("1M"), Err("\"M\" is not a unit of time".to_owned()));
    for value in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
        assert!(parse_duration(&Scalar::Float(value)).is_err(), "{value} was taken");
    }
    assert!(parse_duration(&Scalar::Int(-1)).is_err());
    assert!(parse_duration(&Scalar::Int(i64::MAX)).is_err());
}

#[test]
fn sizes_are_powers_of_1024() {
    for (value, expected) in [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65_536),
        ("64KiB", 65_536),
        ("512M", 1 << 29),
        ("2G", 1 << 31),
        ("1.5G", 3 << 29),
        ("1T", 1 << 40),
        ("2 GiB", 1 << 31),
    ] {
        assert_eq!(parse_size(&text(value), None), Ok(expected), "{value}");
    }
    assert_eq!(parse_size(&Scalar::Int(10), None), Ok(10));
    assert_eq!(parse_size(&text("50%"), Some(1000)), Ok(500));
    assert_eq!(parse_size(&text("12.5%"), Some(1000)), Ok(125));
}

#[test]
fn no_size_is_refused() {
    for value in [
        "",
        "M",
        "-1",
        "+1",
        "64B",
        "64Mb",
        "1 000",
        "0x10",
        "1e3",
        "infinity",
        "99999999999999T",
        "8388608T",
        "50%",
    ] {
        assert!(parse_size(&text(value), None).is_err(), "{value:?} was taken");
    }
    assert!(parse_size(&text("101%"), Some(1000)).is_err());
    assert!(parse_size(&Scalar::Int(-1), None).is_err());
    assert!(parse_size(&Scalar::Float(1.5), None).is_err());
    let hint = |value| parse_size(&text(value), None).unwrap_err().hint.unwrap();
    assert_eq!(hint("64MB"), "write \"64M\" (or \"64MiB\"), a power of 1024");
    assert_eq!(hint("64 gb"), "write \"64G\" (or \"64GiB\"), a power of 1024");
    assert_eq!(hint("64m"), "write \"M\"");
}

fn words(line: &str) -> Vec<String> {
    split(line).unwrap()
}

#[test]
fn a_command_line_is_split_as_systemd_splits_it() {
    assert_eq!(words("/bin/echo  one\ttwo "), ["/bin/echo", "one", "two"]);
    assert_eq!(
        words(r#"/bin/echo "one two" 'three "four"' """#),
        ["/bin/echo", "one two", "three \"four\"", ""]
    );
    assert_eq!(words(r#"/bin/echo a"b c"d"#), ["/bin/echo", "ab cd"]);
    assert_eq!(
        words(r"/bin/echo a\sb \x41 \101 \u00e9 '\n' \\ \;"),
        ["/bin/echo", "a b", "A", "A", "é", "\n", "\\", ";"]
    );
    assert_eq!(words("/bin/echo a;b | > && *"), ["/bin/echo", "a;b", "|", ">", "&&", "*"]);
}

#[test]
fn a_line_that_is_no_command_is_refused() {
    for line in [
        "",
        "  ",
        "/bin/echo 'a",
        "/bin/echo \"",
        "/bin/echo \\",
        r"/bin/echo \q",
        r"/bin/echo \x4",
        r"/bin/echo \xff",
        r"/bin/echo \000",
        r"/bin/echo \x00",
        r"/bin/echo \ud800",
        r"/bin/echo \U00110000",
        r"/bin/echo \18",
        "/bin/a ; /bin/b",
        "-/bin/a",
        "@/bin/a b",
        "+/bin/a",
        "!!/bin/a",
    ] {
        assert!(split(line).is_err(), "{line:?} was taken");
    }
}

fn argv(words: &[&str]) -> Result<Vec<String>, String> {
    let env = [("ONE", "1"), ("OPTS", " -a  'b c' \"\" "), ("EMPTY", "")];
    let env: BTreeMap<String, String> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    expand(&words, &env).map_err(|refusal| refusal.message)
}

#[test]
fn variables_are_replaced_as_systemd_replaces_them() {
    assert_eq!(argv(&["p", "$OPTS"]).unwrap(), ["p", "-a", "b c", ""]);
    assert_eq!(argv(&["p", "${OPTS}"]).unwrap(), ["p", " -a  'b c' \"\" "]);
    assert_eq!(argv(&["p", "x${ONE}y${ONE}"]).unwrap(), ["p", "x1y1"]);
    assert_eq!(argv(&["p", "$EMPTY", "${EMPTY}", "$NONE", "${NONE}"]).unwrap(), ["p", "", ""]);
    // Within a word only the braces make a variable.
    assert_eq!(argv(&["p", "a$ONE", "$1", "$(date)", "5$"]).unwrap(), ["p", "a$ONE", "$1", "$(date)", "5$"]);
    assert_eq!(argv(&["p", "$$ONE", "$${ONE}", "$$$$", "a$$"]).unwrap(), ["p", "$ONE", "${ONE}", "$$", "a$"]);
}

#[test]
fn what_cannot_be_replaced_is_refused() {
    for words in [
        &["$ONE"][..],
        &["${ONE}"],
        &["p", "${"],
        &["p", "${ONE"],
        &["p", "${ONE:-x}"],
        &["p", "${}"],
        &["p", "$MAINPID"],
        &[],
        &[""],
    ] {
        assert!(argv(words).is_err(), "{words:?} was taken");
    }
}

#[test]
fn a_command_that_grows_too_long_is_refused() {
    let env: BTreeMap<String, String> = [("X".to_owned(), "x".repeat(100_000))].into();
    let expanded =
        |word: &str, count| expand(&[vec!["p".to_owned()], vec![word.to_owned(); count]].concat(), &env);
    assert_eq!(expanded("${X}", 10).map(|argv| argv.len()), Ok(11));
    assert!(expanded("${X}", 11).is_err());
    assert!(expanded("${X}${X}", 1).is_err());
}

#[test]
fn environment_files_are_read_as_systemd_reads_them() {
    let text = "# comment\n; comment\n\nA=1\n B = two words  \nC=\"x \\\" y\\n\"\nD='a\nb'\nE=a\\\nb\nF=\nG=a\"b\"'c'\nH=x # no comment\n";
    let env = parse_env_file(text).unwrap();
    let expected = [
        ("A", "1"),
        ("B", "two words"),
        ("C", "x \" y\\n"),
        ("D", "a\nb"),
        ("E", "ab"),
        ("F", ""),
        ("G", "abc"),
        ("H", "x # no comment"),
    ];
    assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

#[test]
fn a_bad_environment_file_names_its_line() {
    let message = |text| parse_env_file(text).unwrap_err().message;
    assert_eq!(message("A=1\nexport B=2\n"), "line 2 is not NAME=VALUE");
    assert_eq!(message("A='1\n\n2'\n1B=2\n"), "line 4 is not NAME=VALUE");
    assert_eq!(message("A=\"1\n"), "line 1 opens a quote that is never closed");
    assert_eq!(message("A=\0"), "line 1 has a NUL character");
}

#[test]
fn specifiers_stand_for_names_and_directories() {
    let name = UnitName::new("job@7").unwrap();
    let specifiers = Specifiers { name: &name, hostname: "alpha" };
    assert_eq!(
        specifiers.expand("%n %p %i %H %t %S %C %L 100%%").unwrap(),
        "job@7 job 7 alpha /run /var/lib /var/cache /var/log 100%"
    );
    for text in ["%", "%x", "%é", "a\0b"] {
        assert!(specifiers.expand(text).is_err(), "{text:?} was taken");
    }
    assert!(specifiers.expand(&"%S".repeat(20_000)).is_err());
}

#[test]
fn signals_have_names_and_numbers() {
    for (value, expected) in [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("15", 15),
        ("HUP", 1),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("64", 64),
    ] {
        assert_eq!(parse_signal(&text(value)), Ok(expected), "{value}");
    }
    assert_eq!(parse_signal(&Scalar::Int(9)), Ok(9));
    for value in ["", "SIG", "TREM", "0", "65", "-15", "+15", "RTMIN+31", "RTMAX-31", "RTMIN3", "SIGSIGTERM"]
    {
        assert!(parse_signal(&text(value)).is_err(), "{value:?} was taken");
    }
    assert!(parse_signal(&Scalar::Float(15.0)).is_err());
    assert_eq!(parse_signal(&text("SIGTREM")).unwrap_err().hint.as_deref(), Some("did you mean \"TERM\"?"));
}

#[test]
fn a_number_in_an_exit_list_is_a_status() {
    assert_eq!(parse_exit(&Scalar::Int(15)), Ok(ExitMatch::Code(15)));
    assert_eq!(parse_exit(&text("15")), Ok(ExitMatch::Code(15)));
    assert_eq!(parse_exit(&text("SIGTERM")), Ok(ExitMatch::Signal(15)));
    for value in [Scalar::Int(256), Scalar::Int(-1), text("256"), text(""), text("OK"), Scalar::Float(1.0)] {
        assert!(parse_exit(&value).is_err(), "{value:?} was taken");
    }
}

#[test]
fn published_ports_are_read() {
    for (value, expected) in [
        ("8080:80", "127.0.0.1:8080:80/tcp"),
        ("53:53/udp", "127.0.0.1:53:53/udp"),
        ("0.0.0.0:443:8443", "0.0.0.0:443:8443/tcp"),
        ("192.0.2.1:443:8443/tcp", "192.0.2.1:443:8443/tcp"),
        ("[::]:80:80", "[::]:80:80/tcp"),
        ("[2001:db8::1]:53:5353/udp", "[2001:db8::1]:53:5353/udp"),
    ] {
        assert_eq!(parse_publish(value).unwrap().to_string(), expected);
    }
    assert_eq!(parse_publish("1:2").unwrap().proto, Proto::Tcp);
}

#[test]
fn no_published_port_is_refused() {
    for value in [
        "",
        "80",
        ":80",
        "80:",
        "0:80",
        "80:0",
        "65536:80",
        "80:80/",
        "80:80/sctp",
        "80:80/TCP",
        "8000-8010:80",
        "+80:80",
        "[::1]:80:80",
        "[::ffff:127.0.0.1]:80:80",
        "[fe80::1]:80:80",
        "[ff02::1]:80:80",
        "[127.0.0.1]:80:80",
        "::1:80:80",
        "[::]80:80",
        ":::80:80",
        "localhost:80:80",
        "224.0.0.1:80:80",
        "255.255.255.255:80:80",
        "1.2.3:80:80",
        "80:80/tcp/udp",
        " 80:80",
    ] {
        assert!(parse_publish(value).is_err(), "{value:?} was taken");
    }
    assert_eq!(
        parse_publish("80").unwrap_err().hint.as_deref(),
        Some("write \"HOSTPORT:PORT\", such as \"8080:80\"")
    );
}

#[test]
fn peers_are_read() {
    for (value, expected) in [
        ("db:5432", "db:5432/tcp"),
        ("web@1:53/udp", "web@1:53/udp"),
        ("web@*:80/tcp", "web@*:80/tcp"),
        ("*:*", "*:*"),
    ] {
        assert_eq!(parse_allowed(value).unwrap().to_string(), expected);
    }
    let name = |name: &str| UnitName::new(name).unwrap();
    let all = parse_allowed("web@*:80").unwrap();
    assert!(all.is(&name("web@1")) && !all.is(&name("web")) && !all.is(&name("webs@1")));
    let one = parse_allowed("web:80").unwrap();
    assert!(one.is(&name("web")) && !one.is(&name("web@1")));
}

#[test]
fn no_peer_is_refused() {
    for value in
        ["", "db", ":80", "db:", "db:0", "db:80/sctp", "db:80-90", "d b:80", "db:http", "d[b]:80", "db:*/udp"]
    {
        assert!(parse_allowed(value).is_err(), "{value:?} was taken");
    }
}

#[test]
fn destinations_are_read() {
    for (value, expected) in [
        ("192.0.2.0/24:443", "192.0.2.0/24:443/tcp"),
        ("192.0.2.7:53/udp", "192.0.2.7/32:53/udp"),
        ("0.0.0.0/0:443", "0.0.0.0/0:443/tcp"),
        ("10.0.0.0/8:*", "10.0.0.0/8:*"),
        ("[2001:db8::/32]:443", "[2001:db8::/32]:443/tcp"),
        ("[2001:db8::1]:53/udp", "[2001:db8::1/128]:53/udp"),
        ("[::/0]:*", "[::/0]:*"),
    ] {
        assert_eq!(parse_destination(value).unwrap().to_string(), expected);
    }
}

#[test]
fn no_destination_is_refused() {
    for value in [
        "",
        "10.0.0.0/8",
        "10.0.0.1/8:80",
        "10.0.0.0/33:80",
        "10.0.0:80",
        "example.org:443",
        "[2001:db8::/32:443",
        "2001:db8::/32:443",
        "[2001:db8::1/32]:443",
        "[192.0.2.1]:443",
        "[2001:db8::]/32:443",
        "[::1]:443",
        "[fe80::1]:443",
        "[ff02::/16]:443",
        "127.0.0.1:80",
        "169.254.169.254:80",
        "224.0.0.1:80",
        "10.0.0.1:80/icmp",
    ] {
        assert!(parse_destination(value).is_err(), "{value:?} was taken");
    }
    let error = parse_destination("10.0.0.1/8:80").unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("write \"10.0.0.0/8\""));
}

#[test]
fn names_of_hosts_outside_are_read() {
    for (value, expected) in [
        ("Api.Example.org:443", "api.example.org:443/tcp"),
        ("*.example.org.:53/udp", "*.example.org:53/udp"),
        ("_x.example:*", "_x.example:*"),
        ("*.org:443", "*.org:443/tcp"),
        ("10.example:80", "10.example:80/tcp"),
    ] {
        assert_eq!(parse_named(value).unwrap().unwrap().to_string(), expected);
    }
    for value in ["10.0.0.0/8:443", "192.0.2.1:80", "[2001:db8::]:443", "2001:db8::/32:443", ":80", ""] {
        assert_eq!(parse_named(value), Ok(None), "{value:?} is no name");
    }
    for value in [
        "example.org",
        "example.org:0",
        "db:80",
        "db.palisade:80",
        "*.palisade:80",
        "palisade:80",
        "*:80",
        "a.*.org:80",
        "*x.org:80",
        "a..org:80",
        "-a.org:80",
        "a b.org:80",
        "a.1:80",
    ] {
        assert!(parse_named(value).is_err(), "{value:?} was taken");
    }
    let named = parse_named("*.example.org:443").unwrap().unwrap();
    for (name, is_meant) in
        [("a.example.org", true), ("a.b.example.org", true), ("example.org", false), ("xexample.org", false)]
    {
        assert_eq!(named.is(name), is_meant, "{name}");
    }
}

#[test]
fn ids_are_strict() {
    assert_eq!(parse_id("0"), Ok(0));
    assert_eq!(parse_id("4294967294"), Ok(u32::MAX - 1));
    for value in ["", "4294967295", "4294967296", "-1", "+1", "0x10", "01", " 1", "1 ", "1e3"] {
        assert!(parse_id(value).is_err(), "{value:?} was taken");
    }
}

#[test]
fn modes_are_octal() {
    assert_eq!(parse_octal("0077"), Ok(0o077));
    assert_eq!(parse_octal("1777"), Ok(0o1777));
    for value in ["", "8", "+7", "-7", "0o77", "00077", "rwx"] {
        assert!(parse_octal(value).is_err(), "{value:?} was taken");
    }
}

#[test]
fn the_nearest_word_is_found() {
    let words = ["command", "env", "env_file", "working_dir"];
    assert_eq!(nearest("comand", words), Some("command"));
    assert_eq!(nearest("env-file", words), Some("env_file"));
    assert_eq!(nearest("workingdir", words), Some("working_dir"));
    assert_eq!(nearest("Env", words), Some("env"));
    assert_eq!(nearest("working_directory", words), Some("working_dir"));
    assert_eq!(nearest("nothing", words), None);
    assert_eq!(nearest(&"c".repeat(1000), words), None);
}

proptest! {
    #[test]
    fn no_value_parser_panics(line in "\\PC{0,40}|[-0-9a-zA-Z%$\\{}'\"\\\\:/.+; \n\0]{0,40}", number: i64, real: f64) {
        let name = UnitName::new("web@1").unwrap();
        let env: BTreeMap<String, String> = [("A".to_owned(), line.clone())].into();
        for scalar in [text(&line), Scalar::Int(number), Scalar::Float(real)] {
            let _ = parse_duration(&scalar);
            let _ = parse_size(&scalar, Some(1 << 30));
            let _ = parse_signal(&scalar);
            let _ = parse_exit(&scalar);
        }
        let _ = (parse_named(&line), parse_destination(&line), parse_allowed(&line), parse_publish(&line));
        let _ = Specifiers { name: &name, hostname: "h" }.expand(&line);
        let _ = split(&line).and_then(|words| expand(&words, &env));
        let _ = expand(&["p".to_owned(), "$A".to_owned(), line.clone()], &env);
        let _ = parse_env_file(&line);
        let _ = parse_publish(&line);
        let _ = parse_id(&line);
        let _ = parse_octal(&line);
        let _ = nearest(&line, ["command"]);
    }

    #[test]
    fn quoted_words_come_back_as_they_were(words in prop::collection::vec("[ -~é\n]{0,12}", 1..6)) {
        let quoted: Vec<String> = words.iter().map(|word| {
            format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
        }).collect();
        let line = format!("/bin/p {}", quoted.join(" "));
        prop_assert_eq!(&split(&line).unwrap()[1..], &words[..]);
    }

    #[test]
    fn bare_numbers_are_seconds(seconds in 0_u32..=u32::MAX / 2) {
        let expected = Some(Duration::from_secs(seconds.into()));
        prop_assert_eq!(parse_duration(&Scalar::Int(seconds.into())).unwrap(), expected);
        prop_assert_eq!(parse_duration(&text(&seconds.to_string())).unwrap(), expected);
    }
}
