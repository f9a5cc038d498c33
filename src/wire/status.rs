//! Errors to gRPC statuses: the one place.
pub fn undecodable(error: &prost::DecodeError) -> tonic::Status {
    tonic::Status::invalid_argument(error.to_string())
}
