//! HTTP by host name: real proxies, made to know whose a host is from the files of the services.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    ipv6::furnish,
    support::{LONG, World, scaled, wait_until, world::describe},
};

/// A file of `examples/ingress` with its paths below the world's directory.
fn example(world: &World, name: &str) -> String {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let data = world.dir().join("data");
    let output = Command::new(examples.join("prepare")).arg(&data).output().expect("a script of ours");
    assert!(output.status.success(), "{}", describe(&output));
    let toml = fs::read_to_string(examples.join(format!("ingress/{name}.toml"))).expect("an example");
    toml.replace("/srv/palisade-examples", &data.display().to_string())
}

/// A probe that is asked by a host name.
fn app(world: &World, name: &str, keys: &str) {
    world.write_service(name, &world.probe_toml(&["http", "80"], keys));
}

/// Seconds that a client waits.
fn patience() -> String {
    scaled(Duration::from_secs(30)).as_secs().to_string()
}

/// Status and body of a request for a host.
fn ask(host: &str, path: &str) -> (String, String) {
    ask_at("http://127.0.0.1:8090", host, path)
}

fn ask_at(base: &str, host: &str, path: &str) -> (String, String) {
    let header = format!("Host: {host}");
    let url = format!("{base}{path}");
    let args = ["-sk", "-m", &patience(), "-o", "-", "-w", "\n%{http_code}", "-H", &header, &url];
    let output = Command::new("curl").args(args).output().expect("declared as a need");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.trim().to_owned())
}

fn answers(host: &str, path: &str, wanted: &str) {
    wait_until(&format!("{host}{path} is answered by {wanted:?}"), LONG, || {
        let (status, body) = ask(host, path);
        status == "200" && body.starts_with(wanted)
    });
}

pub fn nginx_passes_on_by_host_name_and_takes_others_in_without_a_restart(world: &mut World) {
    for name in ["ingress", "blog", "shop"] {
        world.write_service(name, &example(world, name));
    }
    world.start();
    for name in ["ingress", "blog", "shop"] {
        world.wait_state(name, "active");
    }
    answers("blog.example.org", "/", "hello from blog, gunicorn for 10.83.0.1");
    answers("shop.example.org", "/", "hello from shop, node for 10.83.0.1");
    answers("WWW.Shop.example.org:8090", "/any/path", "hello from shop, node");
    assert_eq!(ask("unknown.example.org", "/").0, "421");
    // The door to each app is its port, for the proxy alone.
    let address = |name: &str| world.address(name).split('/').next().unwrap_or_default().to_owned();
    let from_blog = |port: &str| {
        let url = format!("http://{}:{port}/", address("shop"));
        world.palisade(&["exec", "blog", "--", "/usr/bin/curl", "-s", "-m", "1", &url]).status.code()
    };
    assert_eq!(from_blog("80"), Some(28), "no app gets through to another");
    assert_eq!(world.status("shop")["hosts"][1], "www.shop.example.org->80");
    // Asked all the time from here on: nobody is refused or answered by somebody else.
    let (pid, run) = (world.pid("ingress"), world.run_id("ingress"));
    let (done, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let client = std::thread::spawn({
        let (done, asked) = (Arc::clone(&done), Arc::clone(&asked));
        move || {
            while !done.load(Ordering::SeqCst) {
                let (status, body) = ask("blog.example.org", "/");
                assert!(status == "200" && body.starts_with("hello from blog"), "{status} {body}");
                asked.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    app(world, "news", "http.host = [\"news.example.org\", \"*.news.example.org\"]");
    app(world, "api", "http.host = \"shop.example.org\"\nhttp.path = \"/api\"");
    world.signal(Signal::SIGHUP);
    answers("news.example.org", "/", "news");
    answers("de.news.example.org", "/", "news");
    answers("shop.example.org", "/api", "api");
    answers("shop.example.org", "/api/x?y=z", "api");
    answers("shop.example.org", "/apix", "hello from shop");
    assert_eq!(ask("a.b.news.example.org", "/").0, "421", "of one label alone");
    fs::remove_file(world.services_dir().join("news.toml")).expect("our own file");
    world.signal(Signal::SIGHUP);
    wait_until("the host is nobody's", LONG, || ask("news.example.org", "/").0 == "421");
    let before = asked.load(Ordering::SeqCst);
    wait_until("it is asked on", LONG, || asked.load(Ordering::SeqCst) > before + 3);
    done.store(true, Ordering::SeqCst);
    client.join().expect("everybody was answered");
    assert_eq!((world.pid("ingress"), world.run_id("ingress")), (pid, run), "without a restart");
}

pub fn the_real_client_is_told_and_cannot_say_that_he_is_another(world: &mut World) {
    let outside = furnish();
    let published = "\"0.0.0.0:8090:80\", \"[::]:8090:80\"";
    world.write_service("ingress", &example(world, "ingress").replace("\"8090:80\"", published));
    world.write_service("shop", &example(world, "shop"));
    world.start();
    world.wait_state("ingress", "active");
    world.wait_state("shop", "active");
    let netns = format!("--net={}", outside.path());
    for (host, client) in [("192.0.2.1", "192.0.2.254"), ("[2001:db8::1]", "2001:db8::fe")] {
        let output = Command::new("nsenter")
            .args([&netns, "curl", "-s", "-m", &patience(), "-H", "Host: shop.example.org"])
            .args(["-H", "X-Forwarded-For: 203.0.113.9", &format!("http://{host}:8090/")])
            .output()
            .expect("util-linux is installed");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), format!("hello from shop, node for {client}"), "{}", describe(&output));
    }
    assert_eq!(world.stop(), Ok(()));
    drop(outside);
}

pub fn caddy_passes_on_by_host_name(world: &mut World) {
    let toml = example(world, "ingress")
        .replace("format = \"nginx\"", "format = \"caddy\"")
        .replace("signal = \"HUP\"", &format!("command = {:?}", caddy("reload", &["--force"])))
        .replace("stop = { signal = \"QUIT\" }", "env = { HOME = \"/run\" }")
        .replace("/nginx.conf\"]", "/Caddyfile\"]");
    assert!(toml.contains("Caddyfile"), "{toml}");
    let command =
        toml.lines().find(|line| line.starts_with("command = ")).expect("it has a program").to_owned();
    world.write_service("ingress", &toml.replace(&command, &format!("command = {:?}", caddy("run", &[]))));
    app(world, "blog", "http.host = \"blog.example.org\"");
    app(world, "api", "http.host = \"blog.example.org\"\nhttp.path = \"/api\"");
    world.start();
    world.wait_state("ingress", "active");
    answers("blog.example.org", "/", "blog");
    answers("blog.example.org", "/api/x", "api");
    answers("blog.example.org", "/apix", "blog");
    assert_eq!(ask("unknown.example.org", "/").0, "421");
    let run = world.run_id("ingress");
    app(world, "news", "http.host = \"news.example.org\"");
    fs::remove_file(world.services_dir().join("api.toml")).expect("our own file");
    world.signal(Signal::SIGHUP);
    answers("news.example.org", "/", "news");
    answers("blog.example.org", "/api/x", "blog");
    assert_eq!(world.run_id("ingress"), run, "without a restart");
}

fn caddy(verb: &'static str, more: &[&'static str]) -> Vec<&'static str> {
    [&["/usr/bin/caddy", verb, "--config", "/etc/ingress/Caddyfile"], more].concat()
}

pub fn a_change_while_nobody_supervises_is_taken_in_by_the_next(world: &mut World) {
    world.write_service("ingress", &example(world, "ingress"));
    app(world, "page@", "unit.instances = 2\nhttp.host = \"page.example.org\"");
    world.start();
    world.wait_state("ingress", "active");
    answers("page.example.org", "/", "page-1");
    answers("page.example.org", "/", "page-2");
    let file = world.run_dir().join("ingress/ingress/nginx.conf");
    let before = fs::read_to_string(&file).expect("it was written");
    world.kill_supervisor();
    app(world, "late", "http.host = \"late.example.org\"");
    fs::remove_file(world.services_dir().join("page@.toml")).expect("our own file");
    world.start();
    answers("late.example.org", "/", "late");
    let after = fs::read_to_string(&file).expect("it is there");
    assert!(before.contains("upstream") && !after.contains("upstream"), "{after}");
    assert_eq!(world.run_id("ingress"), 1);
    // The same again is not written again.
    let written = || fs::metadata(&file).and_then(|meta| meta.modified()).expect("it is there");
    let at = written();
    world.ok(&["daemon-reload"]);
    // Whoever answers this has taken in the files.
    world.ok(&["list"]);
    assert_eq!(written(), at);
    // For a proxy that is no service: the same sites, from the supervisor, into a file of its own.
    let out = world.dir().join("out.conf");
    let path = out.display().to_string();
    let args = ["ingress", "--format", "nginx", "--out", &path];
    assert!(world.ok(&args).ends_with(": written\n") && world.ok(&args).ends_with(": unchanged\n"));
    assert_eq!(fs::read_to_string(&out).expect("it was written"), after, "as for the service");
    let sites = world.json(&["ingress"]);
    assert_eq!(sites["sites"][0]["host"], "late.example.org", "{sites}");
    assert_eq!(sites["sites"][0]["backends"][0]["service"], "late", "{sites}");
    // A service that is an ingress no more has nothing made for it.
    app(world, "ingress", "");
    world.ok(&["daemon-reload"]);
    wait_until("it is gone", LONG, || !file.exists());
}

/// Certificates of every host, where the directory of the services' hosts has them.
fn certificates(world: &World, hosts: &[&str]) -> String {
    let dir = world.dir().join("certificates");
    for host in hosts {
        fs::create_dir_all(dir.join(host)).expect("our own directory");
        let (key, chain) = (dir.join(host).join("privkey.pem"), dir.join(host).join("fullchain.pem"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", &format!("/CN={host}"), "-days", "1", "-keyout"])
            .arg(key)
            .arg("-out")
            .arg(chain)
            .output()
            .expect("declared as a need");
        assert!(output.status.success(), "{}", describe(&output));
    }
    dir.display().to_string()
}

pub fn the_programs_accept_what_is_made_for_them(world: &mut World) {
    let dir = certificates(world, &["one.example.org", "example.net"]);
    app(world, "one", "http.host = [\"one.example.org\", \"two.example.org\", \"*.example.net\"]");
    app(world, "sub", "http.host = \"one.example.org\"\nhttp.path = \"/a.b/c~d\"");
    app(world, "some@", "unit.instances = 3\nhttp.host = \"some.example.org\"\nhttp.port = 8000");
    world.start();
    let accepted = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).env("HOME", world.dir()).output().expect("a need");
        assert!(output.status.success(), "{program} {args:?}: {}", describe(&output));
    };
    for tls in ["off", &dir] {
        let made = world.ok(&["ingress", "--format", "nginx", "--tls", tls]);
        let made = world.write("made/nginx.conf", &made);
        let whole = format!(
            "pid {0}/nginx.pid; error_log stderr; events {{}} http {{ access_log off; include {1}; }}\n",
            world.dir().display(),
            made.display()
        );
        let whole = world.write("nginx.conf", &whole).display().to_string();
        accepted("nginx", &["-t", "-e", "stderr", "-c", &whole]);
    }
    for tls in ["off", "auto"] {
        let made = world.ok(&["ingress", "--format", "caddy", "--tls", tls]);
        let made = world.write("made/Caddyfile", &made).display().to_string();
        accepted("caddy", &["validate", "--adapter", "caddyfile", "--config", &made]);
    }
    let refused = world.palisade(&["ingress", "--format", "nginx", "--tls", "auto"]);
    assert_eq!(refused.status.code(), Some(2), "{}", describe(&refused));
    // Served for real: one without a certificate keeps nobody from those who have one.
    let toml = example(world, "ingress")
        .replace("format = \"nginx\"", &format!("format = \"nginx\"\ntls = \"{dir}\""))
        .replace("mounts = [", &format!("mounts = [{{ src = \"{dir}\", dst = \"{dir}\" }}, "))
        .replace("\"8090:80\"", "\"8090:80\", \"8443:443\"");
    let _ = Command::new("chmod").args(["-R", "a+rX", &dir]).status();
    world.write_service("ingress", &toml);
    world.ok(&["daemon-reload"]);
    world.wait_state("ingress", "active");
    let secure = |host: &str| {
        let url = format!("https://{host}:8443/");
        let resolve = format!("{host}:8443:127.0.0.1");
        let args = ["-sk", "-m", &patience(), "--resolve", &resolve, &url];
        let output = Command::new("curl").args(args).output();
        String::from_utf8_lossy(&output.expect("a need").stdout).trim().to_owned()
    };
    wait_until("it is answered", LONG, || secure("one.example.org") == "one");
    assert_eq!(secure("x.example.net"), "one", "by the certificate of the wildcard");
    assert_eq!((secure("two.example.org"), secure("unknown.example.org")), (String::new(), String::new()));
    assert_eq!(ask("one.example.org", "/").0, "308");
    assert_eq!(ask("one.example.org", "/.well-known/acme-challenge/none").0, "404");
}

pub fn whoever_claims_anothers_host_gets_no_share_of_it(world: &mut World) {
    let host = "http.host = \"bank.example.org\"";
    app(world, "bank", host);
    world.start();
    world.wait_state("bank", "active");
    let backends = |world: &World| -> Vec<String> {
        let told = world.json(&["ingress"]);
        let site =
            told["sites"].as_array().expect("a list").iter().find(|site| site["host"] == "bank.example.org");
        let all =
            site.map(|site| site["backends"].as_array().cloned().unwrap_or_default()).unwrap_or_default();
        all.iter().filter_map(|one| one["service"].as_str()).map(str::to_owned).collect()
    };
    assert_eq!(backends(world), ["bank"]);
    // Before it by its name, and behind it.
    for name in ["aaa", "zzz"] {
        app(world, name, host);
        world.palisade(&["daemon-reload"]);
        wait_until("the claim is refused", LONG, || world.supervisor_log().contains("is already that of"));
        assert_eq!(backends(world), ["bank"], "{name}");
        fs::remove_file(world.services_dir().join(format!("{name}.toml"))).expect("our own file");
        world.palisade(&["daemon-reload"]);
    }
    assert_eq!(world.run_id("bank"), 1);
}
