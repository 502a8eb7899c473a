//! The routes: what is asked for by a method and a path, and by which listener.

use hyper::Method;

use super::model::Problem;
use super::problem;

/// A listener, by what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The unix socket: a process that may open it may do everything.
    Socket,
    /// TCP: any client, read-only.
    Metrics,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// `GET /v1/status`
    Status,
    /// `GET /v1/vips`
    Vips,
    /// `GET /v1/backends`
    Backends,
    /// `PATCH /v1/backends`
    ChangeBackend,
    /// `POST /v1/backends`
    AddBackend,
    /// `DELETE /v1/backends`
    RemoveBackend,
    /// `GET /v1/overrides`
    Overrides,
    /// `DELETE /v1/overrides`
    ClearOverrides,
    /// `PUT /v1/health`
    TellHealth,
    /// `POST /v1/reload`
    Reload,
    /// `GET /v1/explain`
    Explain,
    /// `GET /v1/events`
    Events,
    /// `GET /v1/config`
    Config,
    /// `GET /v1/flows`
    Flows,
    /// `POST /v1/capture`
    StartCapture,
    /// `DELETE /v1/capture`
    StopCapture,
    /// `GET /healthz`
    Healthz,
    /// `GET /readyz`
    Readyz,
    /// `GET /metrics`
    Metrics,
    /// `GET /`
    Page,
}

/// One line of the table.
#[derive(Debug)]
pub struct Entry {
    /// What it is.
    pub route: Route,
    /// Method and path, such as `GET /v1/status`. HEAD is answered as GET.
    pub name: &'static str,
    /// The parameters of the query that it knows.
    pub parameters: &'static [&'static str],
    /// Whether it is served by TCP, too.
    pub public: bool,
}

impl Entry {
    /// The method.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.parts().0
    }

    /// The whole path.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.parts().1
    }

    fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once(' ').unwrap_or(("", self.name))
    }
}

/// Every route, in the order of `docs/api.md`.
pub static ROUTES: [Entry; 21] = [
    entry(Route::Status, "GET /v1/status", &["vip"]),
    entry(Route::Vips, "GET /v1/vips", &["vip"]),
    entry(Route::Backends, "GET /v1/backends", &BACKEND),
    entry(Route::ChangeBackend, "PATCH /v1/backends", &BACKEND),
    entry(Route::AddBackend, "POST /v1/backends", &BACKEND),
    entry(Route::RemoveBackend, "DELETE /v1/backends", &BACKEND),
    entry(Route::Overrides, "GET /v1/overrides", &BACKEND),
    entry(Route::ClearOverrides, "DELETE /v1/overrides", &BACKEND),
    entry(Route::TellHealth, "PUT /v1/health", &BACKEND),
    entry(Route::Reload, "POST /v1/reload", &["dry_run", "overrides"]),
    entry(
        Route::Explain,
        "GET /v1/explain",
        &["source", "destination", "protocol"],
    ),
    entry(Route::Events, "GET /v1/events", &["since", "follow"]),
    entry(Route::Config, "GET /v1/config", &[]),
    entry(
        Route::Flows,
        "GET /v1/flows",
        &["vip", "backend", "client", "limit", "cursor"],
    ),
    entry(Route::StartCapture, "POST /v1/capture", &[]),
    entry(Route::StopCapture, "DELETE /v1/capture", &[]),
    public(Route::Healthz, "GET /healthz", &[]),
    public(Route::Readyz, "GET /readyz", &["vip"]),
    public(Route::Metrics, "GET /metrics", &[]),
    public(Route::Page, "GET /", &[]),
    public(Route::Status, "GET /status.json", &[]),
];

const BACKEND: [&str; 2] = ["vip", "address"];

const fn entry(route: Route, name: &'static str, parameters: &'static [&'static str]) -> Entry {
    Entry {
        route,
        name,
        parameters,
        public: false,
    }
}

const fn public(route: Route, name: &'static str, parameters: &'static [&'static str]) -> Entry {
    Entry {
        public: true,
        ..entry(route, name, parameters)
    }
}

/// Why there is no route.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoute {
    /// For the client.
    pub problem: Problem,
    /// The methods that the path has, for the header `Allow`.
    pub allow: Option<Box<str>>,
}

/// The route of a request.
///
/// # Errors
/// [`NoRoute`]: 404 for a path that does not exist at that door, 405 for one that has other methods.
pub fn find(door: Door, method: &Method, path: &str) -> Result<&'static Entry, NoRoute> {
    let is_here = |entry: &&Entry| entry.path() == path && (door == Door::Socket || entry.public);
    let here: Vec<_> = ROUTES.iter().filter(is_here).collect();
    if here.is_empty() {
        return Err(NoRoute {
            problem: no_path(door, path),
            allow: None,
        });
    }
    let wanted = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let found = here.iter().find(|entry| entry.method() == wanted);
    found
        .copied()
        .ok_or_else(|| wrong_method(method, path, &here))
}

fn wrong_method(method: &Method, path: &str, here: &[&Entry]) -> NoRoute {
    let methods = here.iter().map(|entry| entry.method());
    let head = here
        .iter()
        .any(|entry| entry.method() == "GET")
        .then_some("HEAD");
    let allow = methods.chain(head).collect::<Vec<_>>().join(", ");
    let method = problem::excerpt(method.as_str());
    NoRoute {
        problem: problem::new(
            405,
            format!("{path} has no method {method}; it has: {allow}"),
        ),
        allow: Some(allow.into()),
    }
}

fn no_path(door: Door, path: &str) -> Problem {
    let is_elsewhere = door == Door::Metrics && ROUTES.iter().any(|entry| entry.path() == path);
    let path = problem::excerpt(path);
    problem::new(
        404,
        if is_elsewhere {
            format!("{path} is served on the unix socket alone")
        } else {
            format!("there is no {path}; docs/api.md lists what there is")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(door: Door, method: &str, path: &str) -> Result<Route, (u16, Option<Box<str>>)> {
        let found = find(door, &method.parse().unwrap(), path);
        let error = |error: NoRoute| (error.problem.status, error.allow);
        found.map(|entry| entry.route).map_err(error)
    }

    #[test]
    fn paths_and_methods() {
        let allow = |list: &str| Err((405, Some(list.into())));
        for (door, method, path, expected) in [
            (Door::Socket, "GET", "/v1/status", Ok(Route::Status)),
            (Door::Socket, "HEAD", "/v1/status", Ok(Route::Status)),
            (Door::Socket, "POST", "/v1/status", allow("GET, HEAD")),
            (
                Door::Socket,
                "PATCH",
                "/v1/backends",
                Ok(Route::ChangeBackend),
            ),
            (
                Door::Socket,
                "PUT",
                "/v1/backends",
                allow("GET, PATCH, POST, DELETE, HEAD"),
            ),
            (Door::Socket, "GET", "/v1/reload", allow("POST")),
            (Door::Socket, "GET", "/v1/status/", Err((404, None))),
            (Door::Socket, "GET", "*", Err((404, None))),
            (Door::Metrics, "GET", "/metrics", Ok(Route::Metrics)),
            (Door::Metrics, "GET", "/", Ok(Route::Page)),
            (Door::Metrics, "POST", "/metrics", allow("GET, HEAD")),
            (Door::Metrics, "GET", "/v1/status", Err((404, None))),
            (Door::Metrics, "POST", "/v1/reload", Err((404, None))),
            (Door::Metrics, "DELETE", "/v1/backends", Err((404, None))),
        ] {
            assert_eq!(found(door, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn each_is_found_by_its_own_line() {
        for entry in &ROUTES {
            let found = found(Door::Socket, entry.method(), entry.path());
            assert_eq!(found, Ok(entry.route), "{}", entry.name);
        }
    }
}
