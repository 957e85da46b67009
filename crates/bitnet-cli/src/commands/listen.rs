//! Where a server listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::Context;
use bitnet_server::{Listener, Tls};

use crate::error::UsageError;

/// Arguments that say where a server listens.
#[derive(Debug, clap::Args)]
pub struct ListenArgs {
    /// Address or name to listen on
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value = "8080")]
    port: u16,
    /// Unix socket to listen on, instead of a port
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["host", "port"])]
    unix_socket: Option<PathBuf>,
    /// Certificate of the server and those above it, in PEM; encrypts connections
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// A bound socket.
#[derive(Debug)]
pub struct Listening {
    pub listener: Listener,
    /// What clients use.
    pub address: String,
    /// Whether other machines can reach it.
    pub is_public: bool,
    #[cfg(unix)]
    _file: Option<SocketFile>,
}

/// The file of a Unix socket; removed when dropped.
#[cfg(unix)]
#[derive(Debug)]
struct SocketFile(PathBuf);

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl ListenArgs {
    /// Returns the certificate and the key, if they are given.
    pub fn tls(&self) -> anyhow::Result<Option<Tls>> {
        let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let read = |file: &PathBuf| {
            std::fs::read(file).with_context(|| format!("failed to read {}", file.display()))
        };
        let files = || format!("{} and {}", certificate.display(), key.display());
        let tls = Tls::from_pem(&read(certificate)?, &read(key)?).with_context(files)?;
        Ok(Some(tls))
    }

    /// Returns the name that is listened on, unless it is an address.
    pub fn host_name(&self) -> Option<&str> {
        Some(&*self.host).filter(|host| host.parse::<IpAddr>().is_err())
    }

    /// Binds what the arguments say, or takes the socket that a service manager has bound
    /// (systemd's socket activation).
    pub fn bind(&self, with_tls: bool) -> anyhow::Result<Listening> {
        #[cfg(unix)]
        if let Some(inherited) = inherited(with_tls)? {
            return Ok(inherited);
        }
        #[cfg(unix)]
        if let Some(path) = &self.unix_socket {
            return bind_unix(path);
        }
        let address = self.address()?;
        let listener =
            TcpListener::bind(address).with_context(|| format!("failed to listen on {address}"))?;
        of_tcp(listener, with_tls)
    }

    fn address(&self) -> anyhow::Result<SocketAddr> {
        if self.host.eq_ignore_ascii_case("localhost") {
            return Ok((Ipv4Addr::LOCALHOST, self.port).into());
        }
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port)
            .to_socket_addrs()
            .ok()
            .and_then(|mut all| all.next());
        found.ok_or_else(|| {
            UsageError(format!(
                "--host is {:?}, expected an address or name of this machine",
                self.host
            ))
            .into()
        })
    }
}

fn of_tcp(listener: TcpListener, with_tls: bool) -> anyhow::Result<Listening> {
    let address = listener.local_addr()?;
    let scheme = if with_tls { "https" } else { "http" };
    Ok(Listening {
        listener: listener.into(),
        address: format!("{scheme}://{address}"),
        is_public: !address.ip().is_loopback(),
        #[cfg(unix)]
        _file: None,
    })
}

/// Returns the first socket that a service manager passed.
#[cfg(unix)]
fn inherited(with_tls: bool) -> anyhow::Result<Option<Listening>> {
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() == 0 {
        return Ok(None);
    }
    if let Ok(Some(listener)) = passed.take_tcp_listener(0) {
        return of_tcp(listener, with_tls).map(Some);
    }
    let listener = passed.take_unix_listener(0);
    let listener = listener.context("the service manager passed no socket that listens")?;
    Ok(listener.map(|listener| Listening {
        listener: listener.into(),
        address: "the socket of the service manager".to_owned(),
        is_public: false,
        _file: None,
    }))
}

/// Binds a Unix socket. The file of a server that was killed is replaced, that of one that
/// runs is not.
#[cfg(unix)]
fn bind_unix(path: &PathBuf) -> anyhow::Result<Listening> {
    use std::io::ErrorKind;
    use std::os::unix::fs::FileTypeExt;

    let is_socket = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let is_left_over = is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    if is_left_over {
        std::fs::remove_file(path)
            .with_context(|| format!("failed to replace {}", path.display()))?;
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("failed to listen on {}", path.display()))?;
    Ok(Listening {
        listener: listener.into(),
        address: format!("unix:{}", path.display()),
        is_public: false,
        _file: Some(SocketFile(path.clone())),
    })
}
