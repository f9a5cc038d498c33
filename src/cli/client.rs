//! The connection that all client commands share.

use std::time::Duration;

use http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::CliError;
use crate::wire::proto::{
    bench::empty_service_client::EmptyServiceClient,
    v1::{
        admin_service_client::AdminServiceClient, command_service_client::CommandServiceClient,
        query_service_client::QueryServiceClient,
        read_model_service_client::ReadModelServiceClient,
        subscription_service_client::SubscriptionServiceClient,
    },
};

const DEFAULT_SERVER: &str = "http://127.0.0.1:2113";
const DEFAULT_PORT: u16 = 2113;

/// A batch of events is at most a commit of 16 MiB; the rest is room.
const MESSAGE_SIZE_BYTES_MAX: usize = 64 << 20;

/// What may be on its way to us without our leave: a reader then waits for no round trip.
const WINDOW_BYTES: u32 = 8 << 20;
/// In one frame of HTTP/2 a server may send so much: a block of events, and what is around it.
const FRAME_BYTES: u32 = 128 << 10;

#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// The server's address
    #[arg(
        long,
        value_name = "URL",
        env = "ANNALS_SERVER",
        default_value = DEFAULT_SERVER,
        value_parser = parse_url,
        hide_env_values = true,
    )]
    server: String,
}

/// Without a scheme it is http, and the port is ours unless there is one.
fn parse_url(text: &str) -> Result<String, String> {
    let (url, default_port) = match text.split_once("://") {
        Some(("http", _)) => (text.to_owned(), None),
        Some(("https", _)) => return Err("TLS is not supported yet; use http://".to_owned()),
        Some((scheme, _)) => return Err(format!("{scheme} is not supported; use http://")),
        None => (format!("http://{text}"), Some(DEFAULT_PORT)),
    };
    let uri: Uri = url.parse().map_err(|_| "not a URL such as http://127.0.0.1:2113".to_owned())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("the host is missing")?;
    match uri.port_u16().or(default_port) {
        Some(port) => Ok(format!("http://{host}:{port}")),
        None => Ok(format!("http://{host}")),
    }
}

impl ServerArgs {
    /// The server's URL.
    pub fn url(&self) -> &str {
        &self.server
    }

    /// A connection that stands.
    pub async fn connect(&self) -> Result<Client, CliError> {
        Ok(Client { channel: self.channel().await? })
    }

    /// So many connections that stand.
    pub async fn channels(&self, count: u32) -> Result<Vec<Channel>, CliError> {
        let mut channels = Vec::new();
        for _ in 0..count {
            channels.push(self.channel().await?);
        }
        Ok(channels)
    }

    async fn channel(&self) -> Result<Channel, CliError> {
        let endpoint = endpoint(self.server.clone())
            .map_err(|error| CliError::Usage(format!("--server {}: {error}", self.server)))?;
        let no_server = |_| CliError::NoServer { server: self.server.clone() };
        endpoint.connect().await.map_err(no_server)
    }
}

/// How a connection to the server at `url` is made.
pub fn endpoint(url: String) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_mins(1)))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES))
}

pub struct Client {
    channel: Channel,
}

impl Client {
    pub fn commands(&self) -> CommandServiceClient<Channel> {
        CommandServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    pub fn queries(&self) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    pub fn subscriptions(&self) -> SubscriptionServiceClient<Channel> {
        SubscriptionServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    pub fn models(&self) -> ReadModelServiceClient<Channel> {
        ReadModelServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    pub fn empty(&self) -> EmptyServiceClient<Channel> {
        EmptyServiceClient::new(self.channel.clone())
    }

    pub fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_url;

    #[test]
    fn a_server_needs_neither_scheme_nor_port() {
        for (text, url) in [
            ("localhost:2114", "http://localhost:2114"),
            ("localhost", "http://localhost:2113"),
            ("[::1]", "http://[::1]:2113"),
            ("http://localhost:2114/", "http://localhost:2114"),
            ("http://annals.example", "http://annals.example"),
        ] {
            assert_eq!(parse_url(text).as_deref(), Ok(url));
        }
        for text in ["https://localhost", "ftp://localhost", "", "http://", "a b"] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
