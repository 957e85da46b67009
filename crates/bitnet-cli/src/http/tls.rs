//! Trusted certificates of TLS connections.

use std::ffi::OsString;
use std::path::PathBuf;

use rustls_native_certs::{CertificateResult, load_certs_from_paths};
use ureq::tls::{Certificate, RootCerts};

/// Variable for a file of certificates.
const FILE: &str = "SSL_CERT_FILE";
/// Variable for folders of such files.
const DIR: &str = "SSL_CERT_DIR";

/// The configured certificates cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("no certificate can be read in {}, which {variable} names{}", path.display(), why(.errors))]
pub struct CertificateError {
    variable: &'static str,
    path: PathBuf,
    errors: Vec<String>,
}

fn why(errors: &[String]) -> String {
    let first = errors.first().map(|error| format!(": {error}"));
    first.unwrap_or_else(|| ": nothing there is a certificate in PEM".to_owned())
}

/// Returns the trusted certificate authorities: those of the environment variables of
/// OpenSSL, by default the system's, or Mozilla's if the system has none.
///
/// # Errors
///
/// Returns an error if the environment names certificates and none can be read.
pub fn trusted(variable: impl Fn(&str) -> Option<OsString>) -> Result<RootCerts, CertificateError> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let (file, dirs) = (variable(FILE), variable(DIR));
    if file.is_none() && dirs.is_none() {
        return Ok(system());
    }
    let mut all = Vec::new();
    if let Some(file) = file {
        let path = PathBuf::from(file);
        let CertificateResult { certs, errors, .. } = load_certs_from_paths(Some(&path), None);
        if certs.is_empty() {
            return Err(error(FILE, path, &errors));
        }
        all.extend(certs);
    }
    if let Some(dirs) = dirs {
        // Some of several folders may be missing, and files need not be certificates.
        let mut errors = Vec::new();
        for dir in std::env::split_paths(&dirs) {
            let loaded = load_certs_from_paths(None, Some(&dir));
            all.extend(loaded.certs);
            errors.extend(loaded.errors);
        }
        if all.is_empty() {
            return Err(error(DIR, dirs.into(), &errors));
        }
    }
    Ok(specific(&all))
}

fn error(
    variable: &'static str,
    path: PathBuf,
    errors: &[rustls_native_certs::Error],
) -> CertificateError {
    CertificateError {
        variable,
        path,
        errors: errors.iter().map(ToString::to_string).collect(),
    }
}

fn specific(certificates: &[impl AsRef<[u8]>]) -> RootCerts {
    let certificates = certificates.iter();
    RootCerts::from(certificates.map(|der| Certificate::from_der(der.as_ref()).to_owned()))
}

/// On Windows and macOS the system verifies certificates.
#[cfg(any(windows, target_vendor = "apple"))]
fn system() -> RootCerts {
    RootCerts::PlatformVerifier
}

#[cfg(not(any(windows, target_vendor = "apple")))]
fn system() -> RootCerts {
    // Such folders may contain other files.
    let certificates = rustls_native_certs::load_native_certs().certs;
    if certificates.is_empty() {
        return RootCerts::WebPki;
    }
    specific(&certificates)
}
