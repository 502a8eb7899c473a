//! What is asked of single packets: where a flow would go, the flows that the workers remember, and captures.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::answer::{Answer, Api, JSON, broken, json, whole};
use super::flows::{PageCursor, PageRequest, page};
use super::model::{self, Captured, FlowPage, Problem, SCHEMA};
use super::problem;
use super::query::Query;
use crate::control::overlay::Author;
use crate::control::{Ask, CaptureRequest, FlowError, MAX_FLOWS};
use crate::director::{FlowFilter, Snapshot};
use crate::io::sys::effective_user;
use crate::packet::{FlowKey, Protocol};
use crate::site::explain::Report;

/// How long one worker may take to tell some of its flows.
const WORKER_PATIENCE: Duration = Duration::from_secs(2);

/// How long workers are asked for one page.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);

impl Api {
    /// `GET /v1/explain`
    pub(super) fn explain(&self, query: &Query) -> Result<Answer, Problem> {
        let source = query.endpoint("source")?;
        let destination = query.endpoint("destination")?;
        let protocol = match query.text("protocol") {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(_) => return Err(problem::of(400, "protocol", "accepted: tcp or udp")),
        };
        let flow = flow(source, destination, protocol)?;
        let view = self.handle.view();
        let report = Report::new(&view.effective, &view.paths, &view.snapshot, &flow);
        let document = report.to_json().map_err(broken)?;
        Ok(whole(JSON, document.into()))
    }

    /// `GET /v1/flows`
    pub(super) async fn flows(&self, query: &Query) -> Result<Answer, Problem> {
        let view = self.handle.view();
        let request = page_request(query, &view.snapshot)?;
        let backend = query.address("backend")?;
        let identity = Arc::clone(&self.handle.identity);
        let asked = spawn_blocking(move || {
            let began = Instant::now();
            let (workers, driver) = (&identity.workers, &identity.driver);
            // Behind the workers.
            let ask = |table: usize, request| match (workers.get(table), driver) {
                (None, Some(driver)) => driver.list(request),
                _ => workers[table].list(request, WORKER_PATIENCE),
            };
            let tables = workers.len() + usize::from(driver.is_some());
            page(&request, tables, ask, || began.elapsed() < PAGE_PATIENCE)
        });
        let listed: Result<FlowPage, FlowError> = asked
            .await
            .map_err(|_| problem::new(500, "the listing of flows ended by itself"))?;
        let mut listed = listed.map_err(|error| problem::new(503, error.to_string()))?;
        listed
            .flows
            .retain(|flow| backend.is_none_or(|wanted| flow.backend == wanted));
        json(None, &listed)
    }

    /// `POST /v1/capture`
    pub(super) async fn start_capture(&self, body: &[u8], by: Author) -> Result<Answer, Problem> {
        may_capture(&by)?;
        let wish: model::CaptureRequest = serde_json::from_slice(body).map_err(|error| {
            let detail = format!("the body: {error}; accepted: file, filter and size_bytes");
            problem::new(400, problem::excerpt_of(&detail, 300))
        })?;
        let what = CaptureRequest {
            path: wish.file,
            filter: wish.filter,
            limit_bytes: wish.size_bytes,
        };
        let begun = self.ask(|reply| Ask::Capture { what, by, reply }).await?;
        begun.map_err(|why| problem::new(409, why))?;
        Ok(Answer {
            status: 201,
            ..json(None, &serde_json::json!({ "schema": SCHEMA }))?
        })
    }

    /// `DELETE /v1/capture`
    pub(super) async fn stop_capture(&self, by: Author) -> Result<Answer, Problem> {
        may_capture(&by)?;
        let ended = self.ask(|reply| Ask::StopCapture { by, reply }).await?;
        let text = ended.map_err(|why| problem::new(409, why))?;
        json(
            None,
            &Captured {
                schema: SCHEMA,
                text,
            },
        )
    }
}

/// The director writes the file by its own rights, so only its own user and root may say where.
fn may_capture(by: &Author) -> Result<(), Problem> {
    let own = effective_user();
    if by.uid == 0 || by.uid == own {
        return Ok(());
    }
    let detail = format!("only root and the director's own user (uid {own}) may capture packets");
    Err(problem::new(403, detail))
}

fn page_request(query: &Query, snapshot: &Snapshot) -> Result<PageRequest, Problem> {
    let vip = query.text("vip").map(|name| {
        let found = snapshot.vips().iter().find(|vip| vip.name == name);
        found.ok_or_else(|| {
            problem::of(
                404,
                "vip",
                format!("there is no vip {}", problem::excerpt(name)),
            )
        })
    });
    let limit = query.number("limit")?.unwrap_or(MAX_FLOWS as u64);
    let limit = usize::try_from(limit)
        .ok()
        .filter(|limit| *limit <= MAX_FLOWS);
    let limit = limit.and_then(NonZeroUsize::new);
    let accepted = format!("accepted: 1 to {MAX_FLOWS}");
    let cursor = query
        .text("cursor")
        .map(str::parse::<PageCursor>)
        .transpose();
    Ok(PageRequest {
        from: cursor
            .map_err(|_| problem::of(400, "cursor", "accepted: next_cursor of an earlier page"))?
            .unwrap_or_default(),
        filter: FlowFilter {
            vip: vip.transpose()?.map(|vip| vip.service),
            backend: None,
            client: query.address("client")?,
        },
        limit: limit.ok_or_else(|| problem::of(400, "limit", accepted))?,
    })
}

fn flow(
    source: SocketAddr,
    destination: SocketAddr,
    protocol: Protocol,
) -> Result<FlowKey, Problem> {
    if source.is_ipv4() != destination.is_ipv4() {
        let detail = "of another address family than destination: no packet has both";
        return Err(problem::of(400, "source", detail));
    }
    Ok(FlowKey {
        source: source.ip(),
        destination: destination.ip(),
        source_port: source.port(),
        destination_port: destination.port(),
        protocol,
    })
}
