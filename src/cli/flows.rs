//! `tunlb flows`: what a running director's workers remember: which client goes where.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::amount::lasting;
use super::columns::{Align, Cell, Screen, Table};
use super::running::ApiArgs;
use super::{complain, print, print_json};
use crate::api::model::{Flow, FlowPage, SCHEMA};
use crate::client::{Client, ClientError, FlowFilter};

/// Arguments of `tunlb flows`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only flows to this VIP, by its name
    #[arg(long, value_name = "NAME")]
    pub vip: Option<String>,

    /// Only flows to this backend
    #[arg(long, value_name = "ADDR")]
    pub backend: Option<IpAddr>,

    /// The most that are listed
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub limit: u32,

    /// One JSON document on stdout (described in docs/api.md)
    #[arg(long)]
    pub json: bool,

    /// The director.
    #[command(flatten)]
    pub api: ApiArgs,
}

/// Flows in one answer: what the workers give without losing time for packets.
const PAGE: usize = 512;

/// Empty pages in a row before it is taken for the end: a page ends early where the workers are busy, or where
/// a long stretch of a table has no flow that was asked for.
const MOST_EMPTY: usize = 1000;

/// Lists them.
///
/// # Errors
/// No director answers, or it has no such VIP or backend.
pub fn run(args: &Args) -> Result<ExitCode> {
    let limit = usize::try_from(args.limit)?;
    let page = all(&args.api.client()?, args, limit)?;
    if args.json {
        print_json(&serde_json::to_string(&page)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = table(&page.flows).lines(Screen::of_stdout());
    let lines = lines.into_iter().map(|line| line + "\n");
    print(&lines.collect::<String>())?;
    if page.next_cursor.is_some() {
        complain(&format!(
            "tunlb: there are more than these {limit}; raise --limit"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Up to the limit; a cursor is left where there may be more.
fn all(client: &Client, args: &Args, limit: usize) -> Result<FlowPage, ClientError> {
    let filter = FlowFilter {
        vip: args.vip.as_deref(),
        backend: args.backend,
    };
    let mut flows: Vec<Flow> = Vec::new();
    let mut cursor: Option<String> = None;
    let mut empty = 0;
    loop {
        let most = PAGE.min(limit - flows.len());
        let mut page = client.flows(filter, most, cursor.as_deref())?;
        page.flows.truncate(most); // whatever comes, the end is reached
        empty = if page.flows.is_empty() { empty + 1 } else { 0 };
        flows.append(&mut page.flows);
        cursor = page.next_cursor;
        if cursor.is_none() || flows.len() >= limit || empty == MOST_EMPTY {
            return Ok(FlowPage {
                schema: SCHEMA,
                flows,
                next_cursor: cursor,
            });
        }
    }
}

fn table(flows: &[Flow]) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new(&[Left, Left, Left, Left, Left, Left, Right, Right]);
    let heads = [
        "Prot",
        "Source",
        "Destination",
        "VIP",
        "Backend",
        "State",
        "Idle",
        "Worker",
    ];
    table.row(heads.iter().map(Cell::new).collect());
    for flow in flows {
        let idle = Duration::try_from_secs_f64(flow.idle_seconds).unwrap_or_default();
        let cells = [
            flow.protocol.to_uppercase(),
            flow.source.to_string(),
            flow.destination.to_string(),
            flow.vip.clone(),
            flow.backend.to_string(),
            flow.state.clone(),
            lasting(idle),
            flow.worker.to_string(),
        ];
        table.row(cells.iter().map(Cell::new).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_in_columns() {
        let flow = |protocol: &str, source: &str, idle_seconds| Flow {
            protocol: protocol.to_owned(),
            source: source.parse().unwrap(),
            destination: "203.0.113.10:443".parse().unwrap(),
            vip: "web".to_owned(),
            backend: "10.0.1.11".parse().unwrap(),
            state: "established".to_owned(),
            idle_seconds,
            worker: 0,
        };
        let flows = [
            flow("tcp", "192.0.2.1:40000", 0.4),
            flow("udp", "[2001:db8::1]:5", f64::NAN),
            flow("tcp", "192.0.2.1:7", 3725.0),
        ];
        let screen = Screen {
            unicode: true,
            width: None,
        };
        assert_eq!(
            table(&flows).lines(screen),
            [
                "Prot Source           Destination       VIP  Backend    State         Idle  Worker",
                "TCP  192.0.2.1:40000  203.0.113.10:443  web  10.0.1.11  established     0s       0",
                "UDP  [2001:db8::1]:5  203.0.113.10:443  web  10.0.1.11  established     0s       0",
                "TCP  192.0.2.1:7      203.0.113.10:443  web  10.0.1.11  established  1h 2m       0",
            ]
        );
    }
}
