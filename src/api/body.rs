//! The body of a request: of bounded length, in bounded time.

use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use tokio::time::timeout;

use super::model::Problem;
use super::problem;

/// The longest one in bytes.
const LONGEST: usize = 64 << 10;

/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The whole body.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let too_long = || problem::new(413, format!("the body; accepted: {LONGEST} bytes"));
    if body.size_hint().lower() > LONGEST as u64 {
        return Err(too_long());
    }
    let whole = Limited::new(body, LONGEST).collect();
    match timeout(PATIENCE, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(problem::new(400, "the body ends too early or is malformed")),
        Err(_) => Err(problem::new(408, "the body took too long")),
    }
}
