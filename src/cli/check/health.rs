//! `[vip.health]` as `check` shows it: every key that has an effect, defaults included.

use serde::{Serialize, Serializer};

use crate::config::duration_text;
use crate::packet::Protocol;
use crate::probe::check::{Http, Https, Pattern, Timing, Verify};
use crate::probe::{Check, Close, Kind, OnUnhealthy, ProbedBy, Probing};

/// The keys in the order of the documentation.
#[derive(Debug)]
pub(super) struct HealthView(pub(super) Vec<(&'static str, Value)>);

/// The value of a key.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Value {
    /// A string.
    Text(String),
    /// An integer.
    Number(u16),
    /// A boolean.
    Switch(bool),
}

impl Value {
    /// As TOML has it, where that is without quotes.
    pub(super) fn bare(&self) -> Option<String> {
        match self {
            Self::Text(_) => None,
            Self::Number(number) => Some(number.to_string()),
            Self::Switch(on) => Some(on.to_string()),
        }
    }

    /// What is between the quotes; of what has none, nothing.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Number(_) | Self::Switch(_) => "",
        }
    }
}

impl Serialize for HealthView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl HealthView {
    pub(super) fn new(probing: Option<&Probing>) -> Self {
        let mut view = Self(Vec::new());
        let Some(probing) = probing else {
            view.text("kind", "none");
            return view;
        };
        match &probing.by {
            ProbedBy::Check(check) => view.check(check),
            ProbedBy::Track(vip) => view.text("track", vip),
        }
        view.text(
            "on_unhealthy",
            match probing.on_unhealthy {
                OnUnhealthy::Auto => "auto",
                OnUnhealthy::Move => "move",
                OnUnhealthy::Keep => "keep",
            },
        );
        let slow_start = probing.slow_start.into_iter();
        slow_start.for_each(|time| view.text("slow_start", duration_text(time)));
        view
    }

    fn text(&mut self, key: &'static str, value: impl Into<String>) {
        self.0.push((key, Value::Text(value.into())));
    }

    fn number(&mut self, key: &'static str, value: u16) {
        self.0.push((key, Value::Number(value)));
    }

    fn switch(&mut self, key: &'static str, value: bool) {
        self.0.push((key, Value::Switch(value)));
    }

    fn optional(&mut self, key: &'static str, value: Option<&String>) {
        value.into_iter().for_each(|value| self.text(key, value));
    }

    fn check(&mut self, check: &Check) {
        self.text("kind", check.kind.name());
        self.kind(&check.kind, check.close);
        check
            .port
            .iter()
            .for_each(|port| self.number("port", port.get()));
        let Timing {
            interval,
            edge,
            down,
            timeout,
        } = check.timing;
        self.text("interval", duration_text(interval));
        if check.kind != Kind::External {
            self.text("interval_edge", duration_text(edge));
            self.text("interval_down", duration_text(down));
            self.text("timeout", duration_text(timeout));
        }
        self.number("rise", check.rise.get().into());
        self.number("fall", check.fall.get().into());
        self.text("initial", check.initial.to_string());
        check
            .source
            .iter()
            .for_each(|source| self.text("source", source.to_string()));
        if check.kind != Kind::External {
            self.text("via", check.via.name());
            self.switch("passive", check.passive);
        }
    }

    fn http(&mut self, http: &Http) {
        self.text("path", &http.path);
        self.optional("host", http.host.as_ref());
        let (first, last) = (http.status.start(), http.status.end());
        self.text("status", format!("{first}-{last}"));
        self.optional("body", http.body.as_ref());
    }

    fn kind(&mut self, kind: &Kind, close: Close) {
        match kind {
            Kind::Tcp => self.text(
                "close",
                match close {
                    Close::Reset => "reset",
                    Close::Graceful => "graceful",
                },
            ),
            Kind::Http(http) => self.http(http),
            Kind::Https(Https { http, verify }) => {
                self.http(http);
                self.text(
                    "verify",
                    match verify {
                        Verify::None => "none",
                        Verify::System => "system",
                        Verify::File(path) => path,
                    },
                );
            }
            Kind::Tls(tls) => self.optional("host", tls.host.as_ref()),
            Kind::Udp(udp) => {
                self.text("payload", hex(&udp.payload));
                udp.expect
                    .iter()
                    .for_each(|expect| self.text("expect", pattern(expect)));
            }
            Kind::Dns(dns) => {
                self.text("query", &dns.query);
                self.text("type", dns.record.to_string());
                self.text(
                    "protocol",
                    match dns.protocol {
                        Protocol::Tcp => "tcp",
                        Protocol::Udp => "udp",
                    },
                );
            }
            Kind::Ping(ping) => ping.size.iter().for_each(|size| self.number("size", *size)),
            Kind::External => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digits that count, and X for the others.
fn pattern(pattern: &Pattern) -> String {
    let digits = |(byte, mask): (&u8, &u8)| {
        let digit = |shift: u8| match mask >> shift & 0xf {
            0 => "X".to_owned(),
            _ => format!("{:x}", byte >> shift & 0xf),
        };
        digit(4) + &digit(0)
    };
    pattern
        .bytes
        .iter()
        .zip(&pattern.mask)
        .map(digits)
        .collect()
}
