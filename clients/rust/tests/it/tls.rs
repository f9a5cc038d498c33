//! The client behind TLS: a proxy before the server has it, with certificates that are made here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use annals_client::{
    Client, ClientOptions, Error, NewEvent, Result,
    client::{Certificate, ClientTlsConfig, Identity, Retry},
    testing::TestStore,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    },
};

/// Who signs certificates.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Two of one name would be taken for one whose signatures are wrong.
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for this name, and its key.
    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn identity(&self, name: &str) -> Identity {
        let (certificate, key) = self.sign(name);
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }

    /// What a client says that trusts it.
    fn trusted(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.certificate.pem()))
    }
}

/// Takes TLS from clients, and hands on what they say.
struct TlsProxy {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl TlsProxy {
    /// With a certificate for localhost of this authority; clients need one of `clients`, where it is given.
    async fn before(store: &TestStore, authority: &Authority, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.certificate.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
            None => config.with_no_client_auth(),
        };
        let (certificate, key) = authority.sign("localhost");
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, server) = (listener.local_addr().unwrap(), store.address());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(forward(acceptor.clone(), client, server));
            }
        });
        Self { address, _serving: serving }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    async fn client(&self, tls: ClientTlsConfig) -> Client {
        ClientOptions::new(self.url()).tls(tls).connect().await.unwrap()
    }
}

async fn forward(acceptor: TlsAcceptor, client: TcpStream, server: SocketAddr) {
    match acceptor.accept(client).into_fallible().await {
        Ok(mut client) => {
            let mut server = TcpStream::connect(server).await.unwrap();
            // Either may go when it wants.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        // Heard out, or its system would throw away what rustls has told it.
        Err((_, mut client)) => {
            let _ = client.shutdown().await;
            let _ = client.read_to_end(&mut Vec::new()).await;
        }
    }
}

async fn append(client: &Client) -> Result<u64> {
    let appended = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
    Ok(appended.position)
}

/// A certificate that is not taken now will not be at the next try.
fn assert_refused_for_good(error: &Error, url: &str, cause: &str) {
    let Error::Connect { url: named, reason } = error else { panic!("{error:?}") };
    assert_eq!(named, url);
    assert!(reason.contains(cause), "{reason}");
    assert!(!error.is_transient(), "{error}");
}

#[tokio::test]
async fn an_append_and_a_subscription_work_over_https() {
    let (store, authority) = (TestStore::start().await, Authority::new("servers"));
    let proxy = TlsProxy::before(&store, &authority, None).await;
    let client = proxy.client(authority.trusted()).await;
    let mut subscription = client.subscribe().start().await.unwrap();
    assert_eq!(append(&client).await.unwrap(), 1);
    assert_eq!(subscription.next().await.unwrap().event_type, "PaymentProcessed");
}

/// Calls and subscriptions: the latter would connect again for ever.
#[tokio::test]
async fn a_server_of_an_unknown_authority_is_refused_at_the_first_try() {
    let (store, authority) = (TestStore::start().await, Authority::new("servers"));
    let proxy = TlsProxy::before(&store, &authority, None).await;
    let client = ClientOptions::new(proxy.url())
        .tls(Authority::new("strangers").trusted())
        // A second try would come too late for the test.
        .retry(Retry { pause: Duration::from_hours(1), ..Retry::for_ever() })
        .deadline(Duration::from_hours(2))
        .connect()
        .await
        .unwrap();
    let refused = append(&client).await.unwrap_err();
    assert_refused_for_good(&refused, &proxy.url(), "invalid peer certificate: UnknownIssuer");
    let refused = client.subscribe().start().await.unwrap_err();
    assert_refused_for_good(&refused, &proxy.url(), "invalid peer certificate: UnknownIssuer");
    let text =
        format!("cannot connect to {}: invalid peer certificate: UnknownIssuer", proxy.url());
    assert_eq!(refused.to_string(), text);
    assert!(store.client().read_all().collect().await.unwrap().is_empty());
}

#[tokio::test]
async fn without_certificates_of_ones_own_only_the_systems_count() {
    let (store, authority) = (TestStore::start().await, Authority::new("servers"));
    let proxy = TlsProxy::before(&store, &authority, None).await;
    let connect = async { append(&Client::connect(proxy.url()).await?).await };
    let refused = connect.await.unwrap_err();
    // A machine may have none at all.
    let none = refused.to_string().contains("no native certs found");
    let cause = if none { "no native certs found" } else { "UnknownIssuer" };
    assert_refused_for_good(&refused, &proxy.url(), cause);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_unless_that_name_is_asked_for() {
    let (store, authority) = (TestStore::start().await, Authority::new("servers"));
    let proxy = TlsProxy::before(&store, &authority, None).await;
    let url = format!("https://{}", proxy.address);
    let options = ClientOptions::new(url.clone());
    let client = options.clone().tls(authority.trusted()).connect().await.unwrap();
    let refused = append(&client).await.unwrap_err();
    assert_refused_for_good(&refused, &url, "not valid for name");

    let named = authority.trusted().domain_name("localhost");
    assert_eq!(append(&options.tls(named).connect().await.unwrap()).await.unwrap(), 1);
}

#[tokio::test]
async fn a_server_that_demands_a_certificate_takes_only_clients_that_have_one() {
    let (store, authority, clients) =
        (TestStore::start().await, Authority::new("servers"), Authority::new("clients"));
    let proxy = TlsProxy::before(&store, &authority, Some(&clients)).await;

    let nameless = proxy.client(authority.trusted()).await;
    let refused = append(&nameless).await.unwrap_err().to_string();
    assert!(refused.contains(&proxy.url()), "{refused}");
    assert!(refused.contains("CertificateRequired"), "{refused}");

    let foreign = authority.trusted().identity(authority.identity("client"));
    let refused = append(&proxy.client(foreign).await).await.unwrap_err().to_string();
    assert!(refused.contains(&proxy.url()), "{refused}");
    assert!(refused.contains("UnknownCA"), "{refused}");

    let known = authority.trusted().identity(clients.identity("client"));
    assert_eq!(append(&proxy.client(known).await).await.unwrap(), 1);
}

#[tokio::test]
async fn https_to_a_server_without_tls_says_that_it_is_not_tls() {
    let (store, authority) = (TestStore::start().await, Authority::new("servers"));
    let url = format!("https://{}", store.address());
    let client = ClientOptions::new(url.clone())
        .tls(authority.trusted())
        .retry(Retry { tries: 1, ..Retry::default() })
        .connect()
        .await
        .unwrap();
    let refused = append(&client).await.unwrap_err().to_string();
    assert!(refused.contains(&url), "{refused}");
    assert!(refused.contains("InvalidContentType"), "{refused}");
}

/// Those of the generated clients too.
#[tokio::test]
async fn an_error_names_the_address_where_nobody_listens_and_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = ClientOptions::new(url.clone())
        .retry(Retry { tries: 1, ..Retry::default() })
        .connect()
        .await
        .unwrap();
    let refused = append(&client).await.unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    let generated =
        client.admin().get_info(annals_client::proto::GetInfoRequest {}).await.unwrap_err();
    assert_eq!(generated.code(), tonic::Code::Unavailable);
    for text in [refused.to_string(), generated.message().to_owned()] {
        assert!(text.contains(&format!("cannot connect to {url}: ")), "{text}");
        assert!(text.contains("Connection refused"), "{text}");
    }
}

#[tokio::test]
async fn certificates_for_a_connection_without_tls_are_refused() {
    let trusted = Authority::new("servers").trusted();
    let refused = ClientOptions::new("http://127.0.0.1:2113").tls(trusted).connect().await;
    let text = "cannot connect to http://127.0.0.1:2113: certificates need https";
    assert_eq!(refused.unwrap_err().to_string(), text);
}
