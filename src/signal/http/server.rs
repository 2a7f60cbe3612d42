//! Carries a router over TCP, with TLS where the plan has a certificate.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use axum_server::tls_rustls::RustlsConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tower::{Layer, service_fn};

use crate::config::TlsFiles;
use crate::limits::HTTP_CONNECTIONS_MAX;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long requests under way may take after the server was told to stop.
const GRACE: Duration = Duration::from_millis(300);
/// How long a new connection may take to send its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(15);

/// Why HTTP cannot be served. `Display` says what to do.
#[derive(Debug)]
pub enum ServeError {
    Bind { address: SocketAddr, error: io::Error },
    Tls { cert: PathBuf, key: PathBuf, error: io::Error },
    Serve(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Bind { address, error } if error.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "TCP port {} is taken on {} (is the server running already?): choose another with --http-port",
                address.port(),
                address.ip()
            ),
            ServeError::Bind { address, error } => write!(f, "cannot listen on TCP {address}: {error}"),
            ServeError::Tls { cert, key, error } => {
                write!(f, "cannot use the certificate {} with the key {}: {error}", cert.display(), key.display())
            }
            ServeError::Serve(error) => write!(f, "the HTTP server failed: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// What the server proves with who it is, and where that comes from.
#[derive(Clone)]
pub struct Certificate {
    files: TlsFiles,
    config: RustlsConfig,
}

impl Certificate {
    pub async fn read(files: &TlsFiles) -> Result<Certificate, ServeError> {
        // Fails only if another provider was installed before, which will do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = RustlsConfig::from_pem_file(&files.cert, &files.key).await;
        config.map(|config| Certificate { files: files.clone(), config }).map_err(|error| bad(files, error))
    }

    /// Reads the files again: new connections get what is in them now. On an error all stays as it was.
    pub async fn reload(&self) -> Result<(), ServeError> {
        let read = self.config.reload_from_pem_file(&self.files.cert, &self.files.key).await;
        read.map_err(|error| bad(&self.files, error))
    }
}

fn bad(files: &TlsFiles, error: io::Error) -> ServeError {
    ServeError::Tls { cert: files.cert.clone(), key: files.key.clone(), error }
}

/// A bound socket: made before anything else starts, so that a taken port is found first.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    stop: axum_server::Handle<SocketAddr>,
    pub(super) connections_max: usize,
}

impl Listener {
    pub fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            if address.ip().is_unspecified() && address.is_ipv6() {
                socket.set_only_v6(false)?;
            }
            // A restarted server need not wait for its old connections' TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let socket = TcpListener::from(socket);
            let address = socket.local_addr()?;
            Ok(Listener { socket, address, stop: axum_server::Handle::new(), connections_max: HTTP_CONNECTIONS_MAX })
        };
        bind().map_err(|error| ServeError::Bind { address, error })
    }

    /// The address with the port really bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends [`serve`](Self::serve) gracefully when called; may be called from anywhere.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let stop = self.stop.clone();
        move || stop.graceful_shutdown(Some(GRACE))
    }

    /// Serves until the stopper is called; with a certificate over TLS.
    pub async fn serve(self, routes: Router, certificate: Option<Certificate>) -> Result<(), ServeError> {
        let connections = self.stop.clone();
        // As `into_make_service_with_connect_info`, and nothing for connections beyond the limit: these are closed.
        let service = service_fn(move |client: SocketAddr| {
            let accepted = connections.connection_count() < self.connections_max;
            ready(match accepted {
                true => Ok(Extension(ConnectInfo(client)).layer(routes.clone())),
                false => Err(io::Error::other("too many HTTP connections")),
            })
        });
        let Some(certificate) = certificate else {
            let server = axum_server::from_tcp(self.socket).map_err(ServeError::Serve)?;
            let server = server.handle(self.stop).first_request_timeout(FIRST_REQUEST);
            return server.serve(service).await.map_err(ServeError::Serve);
        };
        let server = axum_server::from_tcp_rustls(self.socket, certificate.config).map_err(ServeError::Serve)?;
        let server = server.handle(self.stop).first_request_timeout(FIRST_REQUEST);
        server.serve(service).await.map_err(ServeError::Serve)
    }
}
