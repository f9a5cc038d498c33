//! Who calls: for whoever looks at what is open. What says who may call, an interceptor in front of the
//! services, will put the caller's name here; there is none yet.

use tonic::Request;

use crate::service::group::Caller;

const USER_AGENT_BYTES_MAX: usize = 256;

/// Who has sent `request`.
pub fn of<T>(request: &Request<T>) -> Caller {
    let peer = request.remote_addr().map(|address| address.to_string());
    let agent = request.metadata().get("user-agent").and_then(|value| value.to_str().ok());
    let mut user_agent = agent.unwrap_or_default().to_owned();
    user_agent.truncate(user_agent.floor_char_boundary(USER_AGENT_BYTES_MAX));
    Caller { peer: peer.unwrap_or_default(), user_agent }
}
