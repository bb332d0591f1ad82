//! What can be asked of a supervisor, who may ask it, and what can go wrong: `io.palisade` as Rust types.
//!
//! Pure. [`parse_call`] is the only way from bytes to a [`Method`], and takes bytes from anybody.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// The interface, as `varlinkctl introspect` shows it.
pub const INTERFACE: &str = include_str!("io.palisade.varlink");

/// Name of the interface.
pub const INTERFACE_NAME: &str = "io.palisade";

/// The interface that every Varlink service has.
const SERVICE_INTERFACE: &str = "\
# The Varlink Service Interface is provided by every varlink service. It describes the service and the interfaces.
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
";

/// The most names that one call may give.
const NAMES_MAX: usize = 4096;

/// The most of them that may be patterns: each is tried on every service, while all others wait.
const PATTERNS_MAX: usize = 64;

/// Who is calling, in the kernel's words at the time of connect(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id, then the supplementary ones.
    pub gids: Vec<u32>,
    /// Process id; not to be trusted for long, it may be used again.
    pub pid: i32,
}

/// How far somebody may go, before any single service is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Everything: root, and the user who runs the supervisor.
    pub all: bool,
    /// See every service: the group of the control socket.
    pub looks: bool,
    /// Operate some services, which is then decided for each: their owners.
    pub owns: bool,
}

/// Services by name or pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Names and patterns of `*`, `?` and `[..]`.
    pub names: Vec<String>,
}

/// Parameters of `Kill`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Names and patterns.
    pub names: Vec<String>,
    /// 1 to 64.
    pub signal: i32,
}

/// Parameters of `Logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// Names and patterns.
    pub names: Vec<String>,
    /// How many lines of the past, of each service; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Go on with whatever comes.
    #[serde(default)]
    pub follow: bool,
    /// None that was written before: microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// None that was written then or later: microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// Parameters of `Events`; without any, whatever happens from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Names and patterns, also of services that are gone; none: all.
    #[serde(default)]
    pub names: Vec<String>,
    /// How many of the past; none: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<u32>,
    /// Go on with whatever comes; none: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

/// Parameters of `Apply`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Milliseconds within which somebody has to confirm; none: it is for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm: Option<u64>,
}

/// Parameters of `Upgrade`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// Absolute path of the program.
    pub binary: String,
    /// Which version of the state it reads, as it says itself.
    pub state: u32,
}

/// Parameters of `Exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The service; no pattern.
    pub name: String,
    /// argv, not empty.
    pub command: Vec<String>,
    /// On a pseudo-terminal of its own, whose master goes to the caller.
    #[serde(default)]
    pub tty: bool,
    /// Width of the terminal in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cols: Option<u16>,
    /// Height of the terminal in lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u16>,
    /// `NAME=VALUE`, over the service's own.
    #[serde(default)]
    pub env: Vec<String>,
    /// Inside; none: the service's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// No parameters, and none tolerated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// One request, with everything about it checked that can be checked without knowing the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// Is anybody there?
    Ping,
    /// All services.
    List,
    /// Some services; without names, all.
    Status(Names),
    /// Start.
    Start(Names),
    /// Stop.
    Stop(Names),
    /// Stop and start.
    Restart(Names),
    /// Read its configuration again.
    Reload(Names),
    /// What was held against them is forgotten.
    ResetFailed(Names),
    /// A signal to the main process.
    Kill(Kill),
    /// Lines of output.
    Logs(Logs),
    /// What has happened, and whatever does from now on.
    Events(Events),
    /// A command inside.
    Exec(Exec),
    /// Read the service files again and apply the difference.
    DaemonReload,
    /// What that would do.
    Plan,
    /// Whose host is which.
    Sites,
    /// What is measured.
    Metrics,
    /// What of it goes on while somebody looks.
    Samples(Names),
    /// As `DaemonReload`, and back again by itself unless somebody confirms.
    Apply(Apply),
    /// When nothing is outstanding of these any more: what each has come to.
    Settle(Names),
    /// What was applied is right.
    Confirm,
    /// What was applied is wrong.
    Revert,
    /// Go on as another program.
    Upgrade(Upgrade),
}

impl Method {
    /// Its name in the interface.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Ping => "Ping",
            Method::List => "List",
            Method::Status(_) => "Status",
            Method::Start(_) => "Start",
            Method::Stop(_) => "Stop",
            Method::Restart(_) => "Restart",
            Method::Reload(_) => "Reload",
            Method::ResetFailed(_) => "ResetFailed",
            Method::Kill(_) => "Kill",
            Method::Logs(_) => "Logs",
            Method::Events(_) => "Events",
            Method::Exec(_) => "Exec",
            Method::DaemonReload => "DaemonReload",
            Method::Plan => "Plan",
            Method::Sites => "Sites",
            Method::Metrics => "Metrics",
            Method::Samples(_) => "Samples",
            Method::Apply(_) => "Apply",
            Method::Settle(_) => "Settle",
            Method::Confirm => "Confirm",
            Method::Revert => "Revert",
            Method::Upgrade(_) => "Upgrade",
        }
    }

    /// Whether it answers more than once.
    pub fn needs_more(&self) -> bool {
        matches!(self, Method::Logs(_) | Method::Events(_) | Method::Exec(_))
    }

    /// How many descriptors come with it.
    pub fn fd_count(&self) -> usize {
        match self {
            Method::Exec(exec) if !exec.tty => 3,
            _ => 0,
        }
    }

    /// Whether somebody with this access may ask for this at all.
    ///
    /// Of somebody who only owns services, every name has to be looked at before anything is done.
    pub fn is_allowed(&self, access: Access) -> bool {
        match self {
            _ if access.all => true,
            Method::Ping
            | Method::List
            | Method::Status(_)
            | Method::Samples(_)
            | Method::Logs(_)
            | Method::Events(_) => access.looks || access.owns,
            Method::Start(_)
            | Method::Stop(_)
            | Method::Restart(_)
            | Method::Reload(_)
            | Method::ResetFailed(_)
            | Method::Kill(_)
            | Method::Exec(_) => access.owns,
            Method::Plan | Method::Sites | Method::Metrics => access.looks,
            Method::DaemonReload
            | Method::Apply(_)
            | Method::Settle(_)
            | Method::Confirm
            | Method::Revert
            | Method::Upgrade(_) => false,
        }
    }

    /// The message that asks for it, NUL included.
    pub fn to_message(&self) -> Vec<u8> {
        let parameters = match self {
            Method::Ping
            | Method::List
            | Method::DaemonReload
            | Method::Plan
            | Method::Sites
            | Method::Metrics
            | Method::Confirm
            | Method::Revert => Ok(json!({})),
            Method::Apply(apply) => serde_json::to_value(apply),
            Method::Upgrade(upgrade) => serde_json::to_value(upgrade),
            Method::Status(names)
            | Method::Samples(names)
            | Method::Start(names)
            | Method::Stop(names)
            | Method::Restart(names)
            | Method::Reload(names)
            | Method::Settle(names)
            | Method::ResetFailed(names) => serde_json::to_value(names),
            Method::Kill(kill) => serde_json::to_value(kill),
            Method::Logs(logs) => serde_json::to_value(logs),
            Method::Events(events) => serde_json::to_value(events),
            Method::Exec(exec) => serde_json::to_value(exec),
        };
        let request = varlink::Request {
            more: self.needs_more().then_some(true),
            oneway: None,
            upgrade: None,
            method: Cow::Owned(format!("{INTERFACE_NAME}.{}", self.name())),
            parameters: Some(parameters.expect("strings and numbers have a JSON form")),
        };
        let mut message = serde_json::to_vec(&request).expect("strings and numbers have a JSON form");
        message.push(0);
        message
    }

    fn parse(name: &str, parameters: Value) -> Result<Self, Error> {
        let nothing = |method| from_parameters::<Nothing>(parameters.clone()).map(|Nothing {}| method);
        let method = match name {
            "Ping" => nothing(Method::Ping)?,
            "List" => nothing(Method::List)?,
            "Events" => Method::Events(from_parameters(parameters)?),
            "DaemonReload" => nothing(Method::DaemonReload)?,
            "Plan" => nothing(Method::Plan)?,
            "Sites" => nothing(Method::Sites)?,
            "Metrics" => nothing(Method::Metrics)?,
            "Samples" => Method::Samples(from_parameters(parameters)?),
            "Confirm" => nothing(Method::Confirm)?,
            "Revert" => nothing(Method::Revert)?,
            "Settle" => Method::Settle(from_parameters(parameters)?),
            "Apply" => Method::Apply(from_parameters(parameters)?),
            "Upgrade" => Method::Upgrade(from_parameters(parameters)?),
            "Status" => Method::Status(from_parameters(parameters)?),
            "Start" => Method::Start(from_parameters(parameters)?),
            "Stop" => Method::Stop(from_parameters(parameters)?),
            "Restart" => Method::Restart(from_parameters(parameters)?),
            "Reload" => Method::Reload(from_parameters(parameters)?),
            "ResetFailed" => Method::ResetFailed(from_parameters(parameters)?),
            "Kill" => Method::Kill(from_parameters(parameters)?),
            "Logs" => Method::Logs(from_parameters(parameters)?),
            "Exec" => Method::Exec(from_parameters(parameters)?),
            _ => return Err(Error::MethodNotFound { method: format!("{INTERFACE_NAME}.{name}") }),
        };
        method.check()?;
        Ok(method)
    }

    /// What the types do not say.
    fn check(&self) -> Result<(), Error> {
        match self {
            Method::Ping
            | Method::List
            | Method::DaemonReload
            | Method::Plan
            | Method::Sites
            | Method::Metrics
            | Method::Confirm
            | Method::Revert => Ok(()),
            Method::Apply(Apply { confirm }) => match confirm {
                Some(0) => Err(Error::parameter("confirm")),
                Some(_) | None => Ok(()),
            },
            Method::Upgrade(Upgrade { binary, .. }) => {
                match binary.starts_with('/') && !binary.contains('\0') {
                    true => Ok(()),
                    false => Err(Error::parameter("binary")),
                }
            }
            Method::Status(Names { names })
            | Method::Samples(Names { names })
            | Method::Events(Events { names, .. }) => names_are_sane(names, 0),
            Method::Start(Names { names })
            | Method::Stop(Names { names })
            | Method::Restart(Names { names })
            | Method::Reload(Names { names })
            | Method::Settle(Names { names })
            | Method::ResetFailed(Names { names }) => names_are_sane(names, 1),
            Method::Logs(Logs { names, since, until, .. }) => {
                for (parameter, time) in [("since", since), ("until", until)] {
                    if time.is_some_and(|time| Timestamp::from_microsecond(time).is_err()) {
                        return Err(Error::parameter(parameter));
                    }
                }
                names_are_sane(names, 1)
            }
            Method::Kill(Kill { names, signal }) => match signal {
                1..=64 => names_are_sane(names, 1),
                _ => Err(Error::parameter("signal")),
            },
            Method::Exec(exec) => exec.check(),
        }
    }
}

impl Exec {
    fn check(&self) -> Result<(), Error> {
        let has_nul = |texts: &[String]| texts.iter().any(|text| text.contains('\0'));
        if self.command.first().is_none_or(String::is_empty) || has_nul(&self.command) {
            return Err(Error::parameter("command"));
        }
        let is_assignment = |text: &String| text.find('=').is_some_and(|at| at > 0);
        if has_nul(&self.env) || !self.env.iter().all(is_assignment) {
            return Err(Error::parameter("env"));
        }
        match &self.user {
            Some(user) if user.is_empty() || user.contains('\0') => Err(Error::parameter("user")),
            _ => Ok(()),
        }
    }
}

fn names_are_sane(names: &[String], least: usize) -> Result<(), Error> {
    // A name is at most 127 characters long; a pattern that is longer than this matches nothing anyway.
    let sane = |name: &String| (1..=256).contains(&name.len()) && !name.contains('\0');
    let patterns = names.iter().filter(|name| is_pattern(name)).count();
    let few = (least..=NAMES_MAX).contains(&names.len()) && patterns <= PATTERNS_MAX;
    match few && names.iter().all(sane) {
        true => Ok(()),
        false => Err(Error::parameter("names")),
    }
}

/// Whether a name stands for all that match it.
pub fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?', '['])
}

fn from_parameters<T: DeserializeOwned>(parameters: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(parameters).map_err(|error| {
        let path = error.path().to_string();
        // Varlink wants the name of the parameter; a missing one has no path, but serde's text names it.
        match path.as_str() {
            "." => Error::InvalidParameter { parameter: error.into_inner().to_string() },
            _ => Error::InvalidParameter { parameter: path },
        }
    })
}

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A method of `io.palisade`.
    Palisade(Method),
    /// A method of `org.varlink.service`, which is answered without asking anybody.
    Answered(Value),
}

/// A message that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What it asks for, or what is wrong with that.
    pub call: Result<Call, Error>,
    /// Several replies are welcome.
    pub more: bool,
    /// No reply is welcome.
    pub oneway: bool,
}

/// Reads one message, without its NUL.
///
/// # Errors
/// The text is no Varlink call at all: the connection is not worth keeping.
pub fn parse_call(text: &[u8]) -> Result<Parsed, NotVarlink> {
    let request: varlink::Request<'_> = serde_json::from_slice(text).map_err(|_| NotVarlink)?;
    let (more, oneway) = (request.more.unwrap_or(false), request.oneway.unwrap_or(false));
    let parameters = match request.parameters {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(parameters) => parameters,
    };
    let call = match request.method.rsplit_once('.') {
        // The connection would leave the protocol; nothing here has a use for that.
        _ if request.upgrade.unwrap_or(false) => Err(Error::parameter("upgrade")),
        Some((INTERFACE_NAME, name)) => Method::parse(name, parameters)
            .and_then(|method| match method.needs_more() && !more {
                true => Err(Error::ExpectedMore),
                false => Ok(method),
            })
            .map(Call::Palisade),
        Some(("org.varlink.service", name)) => describe(name, parameters).map(Call::Answered),
        Some((interface, _)) => Err(Error::InterfaceNotFound { interface: interface.to_owned() }),
        None => Err(Error::MethodNotFound { method: request.method.clone().into_owned() }),
    };
    Ok(Parsed { call, more, oneway })
}

/// The text is not a Varlink call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a varlink call")]
pub struct NotVarlink;

/// Answers `org.varlink.service`.
fn describe(name: &str, parameters: Value) -> Result<Value, Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Interface {
        interface: String,
    }
    match name {
        "GetInfo" => Ok(json!({
            "vendor": "Palisade",
            "product": "palisade",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": ["org.varlink.service", INTERFACE_NAME],
        })),
        "GetInterfaceDescription" => {
            let Interface { interface } = from_parameters(parameters)?;
            match interface.as_str() {
                INTERFACE_NAME => Ok(json!({ "description": INTERFACE })),
                "org.varlink.service" => Ok(json!({ "description": SERVICE_INTERFACE })),
                _ => Err(Error::InterfaceNotFound { interface }),
            }
        }
        _ => Err(Error::MethodNotFound { method: format!("org.varlink.service.{name}") }),
    }
}

/// What a supervisor answers instead of a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No service has such a name, or none matches such a pattern.
    #[error("no such service: {}", .names.join(", "))]
    NoSuchService {
        /// As they were given.
        names: Vec<String>,
    },
    /// The service or the supervisor is in no state to do this.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The caller may not do this, or not with this service.
    #[error("not allowed: only root, and who is let by `unit.owners` and the policy, may do this")]
    NotAllowed,
    /// There is nothing to do it to.
    #[error("{name} is not running")]
    NotRunning {
        /// The service.
        name: String,
    },
    /// It was tried.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// A parameter is missing, unknown, or not what it may be.
    #[error("invalid parameter: {parameter}")]
    InvalidParameter {
        /// Its name, or a sentence about it.
        parameter: String,
    },
    /// The supervisor is of another version, or the caller mistaken.
    #[error("no such method: {method}")]
    MethodNotFound {
        /// Its full name.
        method: String,
    },
    /// As above.
    #[error("no such interface: {interface}")]
    InterfaceNotFound {
        /// Its name.
        interface: String,
    },
    /// The method answers more than once, and the caller did not ask for that.
    #[error("the call needs `more`")]
    ExpectedMore,
    /// An error that this version does not know.
    #[error("{name}{parameters}")]
    Other {
        /// Its full name.
        name: String,
        /// Its parameters as JSON.
        parameters: String,
    },
}

impl Error {
    fn parameter(name: &str) -> Self {
        Error::InvalidParameter { parameter: name.to_owned() }
    }

    /// Its name and parameters in a reply.
    pub fn to_wire(&self) -> (Cow<'static, str>, Value) {
        let palisade = |name: &str| Cow::Owned(format!("{INTERFACE_NAME}.{name}"));
        let varlink = |name: &str| Cow::Owned(format!("org.varlink.service.{name}"));
        match self {
            Error::NoSuchService { names } => (palisade("NoSuchService"), json!({ "names": names })),
            Error::Refused { reason } => (palisade("Refused"), json!({ "reason": reason })),
            Error::NotAllowed => (palisade("NotAllowed"), json!({})),
            Error::NotRunning { name } => (palisade("NotRunning"), json!({ "name": name })),
            Error::Failed { reason } => (palisade("Failed"), json!({ "reason": reason })),
            Error::InvalidParameter { parameter } => {
                (varlink("InvalidParameter"), json!({ "parameter": parameter }))
            }
            Error::MethodNotFound { method } => (varlink("MethodNotFound"), json!({ "method": method })),
            Error::InterfaceNotFound { interface } => {
                (varlink("InterfaceNotFound"), json!({ "interface": interface }))
            }
            Error::ExpectedMore => (varlink("ExpectedMore"), json!({})),
            Error::Other { name, .. } => (Cow::Owned(name.clone()), json!({})),
        }
    }

    /// The error that a reply names; what is not known is kept as it is.
    pub fn from_wire(name: &str, parameters: &Value) -> Self {
        let text = |key: &str| parameters.get(key).and_then(Value::as_str).map(str::to_owned);
        let names =
            || -> Option<Vec<String>> { serde_json::from_value(parameters.get("names")?.clone()).ok() };
        let known = match name {
            "io.palisade.NoSuchService" => names().map(|names| Error::NoSuchService { names }),
            "io.palisade.Refused" => text("reason").map(|reason| Error::Refused { reason }),
            "io.palisade.NotAllowed" => Some(Error::NotAllowed),
            "io.palisade.NotRunning" => text("name").map(|name| Error::NotRunning { name }),
            "io.palisade.Failed" => text("reason").map(|reason| Error::Failed { reason }),
            "org.varlink.service.InvalidParameter" => {
                text("parameter").map(|parameter| Error::InvalidParameter { parameter })
            }
            "org.varlink.service.MethodNotFound" => {
                text("method").map(|method| Error::MethodNotFound { method })
            }
            "org.varlink.service.InterfaceNotFound" => {
                text("interface").map(|interface| Error::InterfaceNotFound { interface })
            }
            "org.varlink.service.ExpectedMore" => Some(Error::ExpectedMore),
            _ => None,
        };
        known.unwrap_or_else(|| Error::Other { name: name.to_owned(), parameters: parameters.to_string() })
    }
}

/// A reply as `varlink::Reply` has it, with parameters that become text without a tree of values in between: a list of a
/// thousand services is more than a megabyte of them.
#[derive(Serialize)]
struct Reply<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    continues: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    parameters: &'a T,
}

/// The message of a reply, NUL included; that of an error, if the parameters have no JSON form.
pub fn reply_message(parameters: &impl Serialize, continues: bool) -> Vec<u8> {
    let reply = Reply { continues: continues.then_some(true), error: None, parameters };
    to_message(&reply).unwrap_or_else(|error| error_message(&Error::Failed { reason: error.to_string() }))
}

/// The message of an error, NUL included.
pub fn error_message(error: &Error) -> Vec<u8> {
    let (name, parameters) = error.to_wire();
    let reply = Reply { continues: None, error: Some(&name), parameters: &parameters };
    to_message(&reply).expect("a JSON value has a JSON form")
}

fn to_message(reply: &Reply<'_, impl Serialize>) -> serde_json::Result<Vec<u8>> {
    let mut message = serde_json::to_vec(reply)?;
    message.push(0);
    Ok(message)
}

#[cfg(test)]
mod tests;
