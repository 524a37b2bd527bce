//! `https`, with a certificate authority of one's own.

use pendula_worker::{Output, Task, Worker};
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::server::{FakeServer, dispatch, held, quick, run};

// Made for these tests only; valid until 2126.
pub const CA: &str = include_str!("tls/ca.pem");
const CERTIFICATE: &str = include_str!("tls/server.pem");
const KEY: &str = include_str!("tls/server.key");

/// A server for which [`CA`] vouches under the name `pendula.test`.
pub fn secure() -> Server {
    let identity = Identity::from_pem(CERTIFICATE, KEY);
    Server::builder().tls_config(ServerTlsConfig::new().identity(identity)).unwrap()
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_is_served_and_another_is_not() {
    let mut server = FakeServer::start_with(secure()).await;
    let url = server.url.replace("http://", "https://");
    let builder = || {
        Worker::builder(&url)
            .tls_domain("pendula.test")
            .timing(quick())
            .handler("noop", |_: Task| async { Ok(Output::default()) })
    };
    let stranger = run(builder().give_up_after(std::time::Duration::from_millis(300)));
    let error = stranger.result().await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");

    let _worker = run(builder().ca_certificate(CA));
    let mut peer = server.accept().await;
    peer.dispatch(dispatch("noop", 1, 1)).await;
    peer.end_of(held(1, 1)).await;
}
