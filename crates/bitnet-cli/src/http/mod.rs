//! What all HTTP clients of the program share.

mod tls;
mod token;

use std::time::Duration;

use ureq::Agent;
use ureq::config::{ConfigBuilder, RedirectAuthHeaders};
use ureq::tls::TlsConfig;
use ureq::typestate::AgentScope;

pub use tls::CertificateError;
pub use token::{Token, TokenError};

/// Network timeout.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the configuration of a client of a server with this URL: its certificates, and the
/// proxies of `ALL_PROXY`, `HTTPS_PROXY` or `HTTP_PROXY`, except for the hosts of `NO_PROXY`.
///
/// # Errors
///
/// Returns an error if the configured certificates cannot be read.
pub fn config(url: &str) -> Result<ConfigBuilder<AgentScope>, CertificateError> {
    // Without TLS, no certificates are needed.
    let tls = if url.starts_with("http://") {
        TlsConfig::default()
    } else {
        let roots = tls::trusted(|name| std::env::var_os(name))?;
        TlsConfig::builder().root_certs(roots).build()
    };
    Ok(Agent::config_builder()
        .http_status_as_error(false)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .timeout_connect(Some(PATIENCE))
        .user_agent(concat!("bitnet/", env!("CARGO_PKG_VERSION")))
        .tls_config(tls))
}

/// Returns whether a request failed because the server's certificate is untrusted.
pub fn is_untrusted(error: &ureq::Error) -> bool {
    let error = match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref().and_then(|error| error.downcast_ref()),
        _ => None,
    };
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}
