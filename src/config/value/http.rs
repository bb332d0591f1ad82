//! Host names and paths of the web.

use super::Refusal;
use crate::spec::{CertDir, Host, Tls, WebPath};

/// A host name, `*.` before it for every one that has one label more.
///
/// # Errors
/// Upper case, a scheme, a port, a path, an address, anything else that is none.
pub fn parse_host(text: &str) -> Result<Host, Refusal> {
    let lower = text.to_lowercase();
    let bare = lower.strip_prefix("https://").or(lower.strip_prefix("http://")).unwrap_or(&lower);
    let bare = bare.split('/').next().unwrap_or_default();
    let bare =
        bare.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(bare, |(host, _)| host);
    Host::new(text).map_err(|message| {
        let hint = match Host::new(bare) {
            Ok(meant) => format!("write \"{meant}\": lower case, without scheme, port and path"),
            Err(_) if !text.is_ascii() => "write it in its ASCII form, which begins with \"xn--\"".to_owned(),
            Err(_) => "write a name such as \"blog.example.org\", or \"*.example.org\"".to_owned(),
        };
        Refusal::new(message).hint(hint)
    })
}

/// What paths begin with.
///
/// # Errors
/// No slash at the beginning, or anything but plain segments.
pub fn parse_web_path(text: &str) -> Result<WebPath, Refusal> {
    WebPath::new(text).map_err(|message| {
        let hint = "write \"/\" or such as \"/blog\": segments of letters, digits, '.', '_', '~' and '-'";
        Refusal::new(message).hint(hint)
    })
}

/// `off`, `auto`, or a directory.
///
/// # Errors
/// Anything else.
pub fn parse_tls(text: &str) -> Result<Tls, Refusal> {
    match text {
        "off" => Ok(Tls::Off),
        "auto" => Ok(Tls::Auto),
        dir => CertDir::new(dir).map(Tls::Dir).map_err(|message| {
            let hint = "write \"off\", \"auto\", or an absolute path of letters, digits, '.', '_' and '-'";
            Refusal::new(message).hint(hint)
        }),
    }
}
