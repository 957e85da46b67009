//! Accepts connections, within limits of number and time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

use crate::app::App;
use crate::listener::Listener;

/// How long connections may take to end after the last response.
const CLOSE: Duration = Duration::from_secs(2);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A program of the same machine.
    #[cfg(unix)]
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// The listeners of tokio.
enum Accepting {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

/// The streams of tokio.
enum Stream {
    Tcp(tokio::net::TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Accepting {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            #[cfg(unix)]
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Self::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Tokens are small, and shall not wait for more.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), Peer::Tcp(peer)))
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }
}

/// A connection that was accepted.
struct Connection {
    app: Arc<App>,
    routes: Router,
    peer: Peer,
    /// Its place among those that are open.
    permit: OwnedSemaphorePermit,
    /// Changes when connections shall end.
    closed: watch::Receiver<()>,
}

/// Serves connections until [`App::close`].
pub async fn serve(listener: Listener, routes: Router, app: Arc<App>) -> io::Result<()> {
    let listener = Accepting::new(listener)?;
    let limits = app.options.limits;
    let room = Arc::new(Semaphore::new(limits.connections));
    let (close, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // Beyond the limit, connections wait in the system's queue.
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit.expect("it is never closed"), listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = app.closing() => break,
            next = next => next,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: the next ones may succeed.
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let connection = Connection {
            app: Arc::clone(&app),
            routes: routes.clone(),
            peer,
            permit,
            closed: closed.clone(),
        };
        match stream {
            Stream::Tcp(stream) => connections.spawn(connection.serve(stream)),
            #[cfg(unix)]
            Stream::Unix(stream) => connections.spawn(connection.serve(stream)),
        };
    }
    drop(listener);
    // The receivers may be gone already.
    let _ = close.send(());
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(CLOSE, all).await;
    Ok(())
}

impl Connection {
    /// Serves the connection, over TLS if the server has a certificate.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
        let limits = self.app.options.limits;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.send));
        let stream = Box::pin(stream);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.app.options.tls {
            let peer = self.peer;
            match tokio::time::timeout(limits.receive, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.answer(stream).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS failed"),
                Err(_) => tracing::debug!(%peer, "TLS took too long"),
            }
            return;
        }
        self.answer(stream).await;
    }

    async fn answer(mut self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let limits = self.app.options.limits;
        let (routes, peer) = (self.routes, self.peer);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut routes = routes.clone();
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            async move { routes.call(request).await }
        });
        let _permit = self.permit;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.receive)
            .max_buf_size(limits.head.max(8192))
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = self.closed.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection failed");
        }
    }
}
