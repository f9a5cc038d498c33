//! Health: of the server as a whole, and of each service.

use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{TestStore, within};

/// "" is the server as a whole.
pub const SERVICES: [&str; 6] = [
    "",
    "annals.v1.CommandService",
    "annals.v1.QueryService",
    "annals.v1.SubscriptionService",
    "annals.v1.ReadModelService",
    "annals.v1.AdminService",
];

pub fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn every_service_is_serving_and_others_are_unknown() {
    let store = TestStore::start().await;
    let mut health = HealthClient::new(store.channel.clone());
    for service in SERVICES {
        let answer = within(health.check(about(service))).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let refusal = within(health.check(about("annals.v1.NoService"))).await.unwrap_err();
    assert_eq!(refusal.code(), Code::NotFound);
}
