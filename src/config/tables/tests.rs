use super::*;
use crate::config::schema::Tables;

fn read_texts(texts: &[&str]) -> (Option<Tables>, Vec<String>) {
    let mut sources = SourceMap::default();
    for (index, text) in texts.iter().enumerate() {
        sources.add(format!("{index}.toml"), *text);
    }
    let (tables, found) = read::<Tables>(&sources);
    let lines = found.iter().map(|diagnostic| match &diagnostic.hint {
        Some(hint) => format!("{diagnostic} ({hint})"),
        None => diagnostic.to_string(),
    });
    (tables, lines.collect())
}

fn merged(texts: &[&str]) -> Tables {
    let (tables, found) = read_texts(texts);
    assert_eq!(found, [""; 0]);
    tables.unwrap()
}

fn strings(list: &Option<Vec<Spanned<String>>>) -> Vec<&str> {
    list.iter().flatten().map(|text| text.get_ref().as_str()).collect()
}

#[test]
fn the_last_scalar_wins_and_points_into_its_own_text() {
    let texts = ["[unit]\ndescription = 'a'\nenabled = false\n", "\n\n[unit]\ndescription = 'b'\n"];
    let tables = merged(&texts);
    let description = tables.unit.description.unwrap();
    assert_eq!(description.get_ref(), "b");
    assert_eq!(tables.unit.enabled, Some(false));
    let mut sources = SourceMap::default();
    for (index, text) in texts.iter().enumerate() {
        sources.add(format!("{index}.toml"), *text);
    }
    assert_eq!(sources.locate(&description.span()).to_string(), "1.toml:4:15");
}

#[test]
fn tables_are_merged_and_lists_replaced() {
    let tables = merged(&[
        "[service]\nenv = { A = '1', B = '2' }\nenv_file = ['/a', '/b']\n[service.stop]\nsignal = 'INT'\n",
        "[service.env]\nB = 3\n[service]\nenv_file = ['/c']\nstop = { timeout = '1s' }\n",
    ]);
    let env: Vec<String> =
        tables.service.env.iter().map(|(k, v)| format!("{}={}", k.get_ref(), v.get_ref())).collect();
    assert_eq!(env, ["A=1", "B=3"]);
    assert_eq!(strings(&tables.service.env_file), ["/c"]);
    assert!(tables.service.stop.signal.is_some() && tables.service.stop.timeout.is_some());
}

#[test]
fn a_plus_appends_to_a_list() {
    let tables = merged(&[
        "[network]\npublish = ['1:1']\n[[rootfs.mounts]]\nsrc = '/a'\n",
        "[network]\n\"+publish\" = ['2:2']\n[unit]\n\"+requires\" = ['db']\n",
        "[network]\n\"+publish\" = ['3:3']\n[[rootfs.\"+mounts\"]]\nsrc = '/b'\n",
    ]);
    assert_eq!(strings(&tables.network.publish), ["1:1", "2:2", "3:3"]);
    assert_eq!(strings(&tables.unit.requires), ["db"]);
    assert_eq!(tables.rootfs.mounts.map(|mounts| mounts.len()), Some(2));
}

#[test]
fn a_plus_beside_its_key_appends_to_it() {
    let tables = merged(&["[network]\n\"+publish\" = ['2:2']\npublish = ['1:1']\n"]);
    assert_eq!(strings(&tables.network.publish), ["1:1", "2:2"]);
}

#[test]
fn a_plus_on_what_is_no_list_is_refused() {
    let (_, found) = read_texts(&[
        "[service]\ncommand = '/bin/a'\n",
        "[service]\n\"+command\" = ['b']\n\"+umask\" = '0'\n",
    ]);
    assert_eq!(
        found,
        [
            "1.toml:2:1: `+command` appends to a list, but `command` is none so far (write `command` without the plus to replace what was there)",
            "1.toml:3:1: `+umask` appends to a list, this is none (write `umask` without the plus to replace what was there)",
        ]
    );
}

#[test]
fn a_key_changes_its_type_with_the_last_text() {
    let tables = merged(&["[unit]\nafter = { db = 'done' }\n", "[unit]\nafter = ['db']\n"]);
    assert!(tables.unit.after.is_some_and(|after| after.0[0].1.is_none()));
}

#[test]
fn every_mistake_is_reported_and_the_rest_is_read() {
    let (tables, found) = read_texts(&[
        "[service]\ncommand = '/bin/a'\ncomand = 1\ntty = 'yes'\nstop = { mode = 5, x = 1 }\n\
        [network]\npublish = ['1:1', 2, '3:3']\n[nework]\n[unit]\nenabled = 1.5\nrequires = 'db'\n[restart]\nmax = [1]\n",
    ]);
    assert_eq!(
        found,
        [
            "0.toml:7:19: `network.publish` takes a string, not the number 2 (write it in quotes)",
            "0.toml:8:2: unknown key or table `nework` (did you mean `network`?)",
            "0.toml:13:7: `restart.max` takes a whole number, not a list (write it in digits, without quotes and without a unit)",
            "0.toml:3:1: unknown key `comand` in `service` (did you mean `command`?)",
            "0.toml:5:17: `service.stop.mode` takes a string, not the number 5 (write it in quotes)",
            "0.toml:5:20: unknown key `x` in `service.stop` (known here: signal, command, timeout, mode)",
            "0.toml:4:7: `service.tty` takes a boolean, not the string \"yes\" (write true or false, without quotes)",
            "0.toml:10:11: `unit.enabled` takes a boolean, not the number 1.5 (write true or false, without quotes)",
            "0.toml:11:12: `unit.requires` takes a list, not the string \"db\" (write it in square brackets, also when it is one alone)",
        ]
    );
    let tables = tables.unwrap();
    assert_eq!(strings(&tables.network.publish), ["1:1", "3:3"]);
    assert!(tables.service.command.is_some());
}

#[test]
fn a_mistake_in_a_list_of_tables_takes_only_its_key() {
    let (tables, found) =
        read_texts(&["[[rootfs.mounts]]\nsrc = '/a'\nscr = '/b'\n[[rootfs.mounts]]\nsrc = 1\ndst = '/c'\n"]);
    assert_eq!(found.len(), 2, "{found:?}");
    let mounts = tables.unwrap().rootfs.mounts.unwrap();
    assert_eq!(mounts.len(), 2);
    assert!(mounts[0].get_ref().src.is_some() && mounts[1].get_ref().dst.is_some());
}

#[test]
fn a_key_of_a_later_version_is_told_from_a_mistyped_one() {
    let (_, found) =
        read_texts(&["[service]\ncpu = '1'\nnice = 1\n[job]\nresult = '1G'\n[limits]\ndisk = '1d'\n"]);
    let later = "(this version does not have it yet; a key that is not built is refused, never ignored)";
    assert_eq!(
        found,
        [
            format!("0.toml:4:2: unknown key or table `job` {later}"),
            format!("0.toml:7:1: unknown key `disk` in `limits` {later}"),
            format!("0.toml:2:1: unknown key `cpu` in `service` {later}"),
        ]
    );
}

#[test]
fn every_syntax_error_is_reported() {
    let (tables, found) = read_texts(&["a = \n[b\nc = 1\n", "d = 'x\n"]);
    assert!(tables.is_none());
    assert!(found.len() >= 3, "{found:?}");
    for place in ["0.toml:1:5: ", "0.toml:2:3: ", "1.toml:1:7: "] {
        assert!(found.iter().any(|line| line.starts_with(place)), "{place} in {found:?}");
    }
}

#[test]
fn a_flood_of_mistakes_is_cut_short() {
    let text: String = (0..1000).map(|i| format!("k{i} = 1\n")).collect();
    let (tables, found) = read_texts(&[&text]);
    assert!(tables.is_none());
    assert_eq!(found.len(), MOST + 1);
}

#[test]
fn no_later_key_is_a_key_already() {
    for (table, keys) in LATER {
        for key in *keys {
            let header = match *table {
                "" => String::new(),
                // A list of tables.
                "socket" => "[[socket]]\n".to_owned(),
                table => format!("[{table}]\n"),
            };
            let (_, found) = read_texts(&[&format!("{header}{key} = 1\n")]);
            assert!(found[0].contains("this version does not have it yet"), "{table} {key}: {found:?}");
        }
    }
}
