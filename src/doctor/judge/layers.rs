//! What sees packets beside packet filters and is not evaluated: named where nothing else decides.

use super::case::Case;
use super::outcome::Outcome;
use crate::doctor::facts::{DeviceLayer, IpsecPolicy, Sees};
use crate::doctor::finding::Status;
use crate::doctor::firewall::FilteredPacket;
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// A packet that comes in by a device.
pub(super) fn arrival(
    case: &Case<'_>,
    outcome: Outcome,
    device: Option<&str>,
    packet: &FilteredPacket,
) -> Outcome {
    seen(case, outcome, device, Sees::Arrivals, packet)
}

/// A packet that leaves by a device.
pub(super) fn departure(
    case: &Case<'_>,
    outcome: Outcome,
    device: Option<&str>,
    packet: &FilteredPacket,
) -> Outcome {
    seen(case, outcome, device, Sees::Departures, packet)
}

fn seen(
    case: &Case<'_>,
    outcome: Outcome,
    device: Option<&str>,
    sees: Sees,
    packet: &FilteredPacket,
) -> Outcome {
    if outcome.status != Status::Pass {
        return outcome;
    }
    let layers = &case.facts.layers;
    let selects = |policy: &&IpsecPolicy| {
        policy.sees == sees
            && policy.source.contains(&packet.source)
            && policy.destination.contains(&packet.destination)
    };
    if let Some(policy) = layers.ipsec.iter().find(selects)
        && policy.stops_plain
    {
        return Outcome::fail(say!(
            case.lang,
            "an IPsec policy (xfrm) stops what does not come by IPsec",
            "一条 IPsec 策略（xfrm）阻止了未经 IPsec 的包"
        ))
        .evidence("ip xfrm policy", &policy.text)
        .verify(command!["ip", "xfrm", "policy"]);
    }
    let sees_it =
        |layer: &&DeviceLayer| layer.sees == sees && Some(layer.device.as_str()) == device;
    let (own, others): (Vec<_>, Vec<_>) = layers
        .on_devices
        .iter()
        .filter(sees_it)
        .partition(|layer| layer.own);
    let outcome = own.iter().fold(outcome, |outcome, layer| {
        outcome.evidence(&layer.device, &layer.text)
    });
    let mut here = others.into_iter();
    let first = here.next();
    let here = here.find(|layer| layer.queue.is_none()).or(first);
    match here {
        Some(DeviceLayer {
            device,
            text,
            queue: Some([sent, dropped, waiting]),
            ..
        }) => {
            let outcome = Outcome::warn(say!(
                case.lang,
                "{text} shapes or loses what leaves: {sent} packets sent on, {dropped} dropped, {waiting} wait",
                "{text} 会限速或丢弃发出的包：已发送 {sent} 个，丢弃 {dropped} 个，等待 {waiting} 个"
            ));
            outcome
                .evidence(device, text)
                .verify(command!["tc", "-s", "qdisc", "show", "dev", device])
        }
        Some(layer) => {
            let text = &layer.text;
            Outcome::unknown(say!(
                case.lang,
                "{text} sees these packets, and what it does to them the doctor cannot evaluate",
                "{text} 会看到这些包，而 doctor 无法判断它如何处理"
            ))
            .evidence(&layer.device, text)
        }
        None => outcome,
    }
}
