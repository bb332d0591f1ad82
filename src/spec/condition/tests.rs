use super::*;

struct Small;

impl Host for Small {
    fn is_at(&self, at: At, path: &Path) -> bool {
        at.key() == path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
    fn virtualization(&self) -> Option<(String, bool)> {
        Some(("kvm".to_owned(), false))
    }
    fn kernel(&self) -> String {
        "6.12.4-1-amd64".to_owned()
    }
    fn command_line(&self) -> String {
        "quiet root=/dev/vda1 ro\n".to_owned()
    }
    fn names(&self) -> [String; 2] {
        ["Alpha".to_owned(), "0123".to_owned()]
    }
    fn memory(&self) -> u64 {
        2 << 30
    }
    fn cpus(&self) -> u64 {
        4
    }
    fn architecture(&self) -> String {
        "x86_64".to_owned()
    }
    fn variable(&self, name: &str) -> Option<String> {
        (name == "STAGE").then(|| "lab".to_owned())
    }
}

fn holds(test: &Test) -> bool {
    let check = |negated| Check { negated, test: test.clone() };
    assert_ne!(check(false).holds(&Small), check(true).holds(&Small), "{test:?}");
    check(false).holds(&Small)
}

#[test]
fn each_looks_at_its_own() {
    let text = str::to_owned;
    for good in [
        Test::Path(At::Exists, "/path_exists".into()),
        Test::Path(At::MountPoint, "/path_is_mount_point".into()),
        Test::Virtualization(text("vm")),
        Test::Virtualization(text("kvm")),
        Test::Virtualization(text("yes")),
        Test::Kernel(Compare::AtLeast, text("6.1")),
        Test::Kernel(Compare::Less, text("6.12.10")),
        Test::KernelLike(text("6.12.*")),
        Test::KernelCommandLine(text("root")),
        Test::KernelCommandLine(text("root=/dev/vda1")),
        Test::KernelCommandLine(text("ro")),
        Test::Host(text("alph?")),
        Test::Host(text("0123")),
        Test::Memory(Compare::AtLeast, 1 << 30),
        Test::Cpus(Compare::Equal, 4),
        Test::Architecture(text("x86_64")),
        Test::Environment(text("STAGE")),
        Test::Environment(text("STAGE=lab")),
    ] {
        assert!(holds(&good), "{good:?}");
    }
    for bad in [
        Test::Path(At::Directory, "/path_exists".into()),
        Test::Virtualization(text("container")),
        Test::Virtualization(text("no")),
        Test::Kernel(Compare::More, text("6.12.4-1-amd64")),
        Test::KernelLike(text("6.1")),
        Test::KernelCommandLine(text("root=")),
        Test::KernelCommandLine(text("r")),
        Test::Host(text("beta")),
        Test::Memory(Compare::More, 2 << 30),
        Test::Cpus(Compare::Less, 4),
        Test::Architecture(text("aarch64")),
        Test::Environment(text("STAGE=prod")),
        Test::Environment(text("HOME")),
    ] {
        assert!(!holds(&bad), "{bad:?}");
    }
}

#[test]
fn nothing_is_asserted_of_one_that_is_skipped() {
    let check = |count| Check { negated: false, test: Test::Cpus(Compare::AtLeast, count) };
    let (holds, fails) = (check(4), check(5));
    let both = |condition: &[Check], assert: &[Check]| unmet(condition, assert, &Small);
    let one = std::slice::from_ref;
    assert_eq!(both(one(&holds), one(&holds)), None);
    assert_eq!(both(&[], &[holds.clone(), fails.clone()]), Some(Unmet::Assert(fails.clone())));
    assert_eq!(both(&[holds.clone(), fails.clone()], one(&fails)), Some(Unmet::Condition(fails.clone())));
    assert_eq!(fails.to_string(), "cpus = \">=5\"");
}

#[test]
fn the_longer_comparison_goes_first() {
    assert_eq!(Compare::split(">= 6.1"), (Some(Compare::AtLeast), "6.1"));
    assert_eq!(Compare::split("<>6"), (Some(Compare::Other), "6"));
    assert_eq!(Compare::split("6.*"), (None, "6.*"));
    assert_eq!(Compare::Other.to_string(), "!=");
}

fn checks(keys: &str) -> Vec<String> {
    let text = format!("[service]\ncommand = ['/bin/web']\n[unit.condition]\n{keys}\n");
    let unit = crate::config::parse_str("web", &text, &crate::spec::HostFacts::default()).expect(keys);
    unit.condition.iter().map(Check::to_string).collect()
}

#[test]
fn a_value_is_one_or_a_list_and_says_what_it_compares() {
    assert_eq!(
        checks("kernel = ['>= 6.1', '!$= *-rt', '!=6.2']"),
        ["kernel = \">=6.1\"", "kernel = \"!*-rt\"", "kernel = \"!=6.2\""]
    );
    assert_eq!(checks("cpus = 4\nmemory = '<1G'"), ["memory = \"<1073741824\"", "cpus = \">=4\""]);
    assert_eq!(checks("virtualization = false"), ["virtualization = \"no\""]);
    assert_eq!(checks("architecture = '!arm64'"), ["architecture = \"!aarch64\""]);
    assert_eq!(checks("path_exists = '! /etc//%n/'"), ["path_exists = \"!/etc/web\""]);
    assert!(checks("").is_empty());
}
