//! Who calls: what a request tells of the client that sent it.
//!
//! Nobody has to say who they are. This is the seam: an interceptor that authorises calls will put who the
//! caller is into the request's extensions, and here it will be taken out again.

use tonic::{Request, metadata::MetadataValue};

use crate::service::subscription::Caller;

/// Of a longer text so much is kept.
const USER_AGENT_BYTES_MAX: usize = 256;

/// The caller of `request`; what it calls itself stands in its message.
pub fn of<T>(request: &Request<T>) -> Caller {
    let user_agent = request.metadata().get("user-agent").map(MetadataValue::as_bytes);
    Caller {
        name: String::new(),
        peer: request.remote_addr().map(|address| address.to_string()).unwrap_or_default(),
        user_agent: shown(user_agent.unwrap_or_default()),
    }
}

/// A text from outside as a terminal or a log can show it.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String =
        text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect();
    shown.truncate(shown.floor_char_boundary(USER_AGENT_BYTES_MAX));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_itself_is_short_and_shows_as_it_is() {
        assert_eq!(shown(b"grpc-go/1.70"), "grpc-go/1.70");
        assert_eq!(shown(b"a\tb\xff"), "a\u{fffd}b\u{fffd}");
        assert_eq!(shown("é".repeat(200).as_bytes()), "é".repeat(128));
        assert_eq!(shown(&[b"x".as_slice(), "é".repeat(128).as_bytes()].concat()).len(), 255);
    }
}
