//! Accepts connections, within limits of number and time.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

use crate::app::App;

/// How long connections may take to end after the last response.
const CLOSE: Duration = Duration::from_secs(2);

/// Serves connections until [`App::close`].
pub async fn serve(listener: TcpListener, routes: Router, app: Arc<App>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let limits = app.options.limits;
    let room = Arc::new(Semaphore::new(limits.connections));
    let (close, closed) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // Beyond the limit, connections wait in the system's queue.
            let permit = Arc::clone(&room).acquire_owned().await;
            (permit, listener.accept().await)
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
        // Tokens are small, and shall not wait for more.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.send));
        let routes = routes.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut routes = routes.clone();
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            async move { routes.call(request).await }
        });
        let mut closed = closed.clone();
        connections.spawn(async move {
            let _permit = permit;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.receive)
                .max_buf_size(limits.head.max(8192))
                .serve_connection(TokioIo::new(Box::pin(stream)), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = closed.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a connection failed");
            }
        });
    }
    drop(listener);
    // The receivers may be gone already.
    let _ = close.send(());
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(CLOSE, all).await;
    Ok(())
}
