//! Every metric that a director has. `docs/metrics.md` lists the same; a test compares them.

use super::family::Family;
use super::family::Kind::{Counter, Gauge, Histogram};

/// Declares the metrics, and the list of all of them.
macro_rules! families {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(pub(super) const $constant: Family = Family {
            name: $name,
            kind: $kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All of them, in the order of the output.
        #[cfg(test)]
        pub(super) const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    BUILD = "tunlb_build_info", Gauge, ["version", "commit"], "Always 1; its labels say what runs.";
    PROCESS_START = "process_start_time_seconds", Gauge, [], "When the process started, in seconds after the Unix epoch.";
    PROCESS_CPU = "process_cpu_seconds_total", Counter, [], "CPU time of all threads, in the kernel and outside.";
    PROCESS_MEMORY = "process_resident_memory_bytes", Gauge, [], "Memory of the process that is resident.";
    PROCESS_FILES = "process_open_fds", Gauge, [], "Open file descriptors.";

    READY = "tunlb_ready", Gauge, [], "1 while nothing keeps the director from its work, as /readyz says it.";
    HOST_PROBLEM = "tunlb_host_problem", Gauge, ["what"], "Problems of this host that keep packets from their way, by kind; none while there is none.";
    RELOAD_SUCCESSFUL = "tunlb_config_last_reload_successful", Gauge, [], "1 if the last reload was applied, or none was tried; 0 if it was refused.";
    RELOAD_SUCCESS_TIME = "tunlb_config_last_reload_success_timestamp_seconds", Gauge, [], "When the configuration that holds was applied, in seconds after the Unix epoch.";
    OVERRIDES = "tunlb_overrides", Gauge, [], "Backends that an operator changed at run time.";
    OVERRIDE_OLDEST = "tunlb_override_oldest_timestamp_seconds", Gauge, [], "When the oldest override was made, in seconds after the Unix epoch; absent without one.";
    SNAPSHOT_EPOCH = "tunlb_snapshot_epoch", Gauge, [], "Counts the snapshots that workers forward by.";
    SNAPSHOT_BUILD = "tunlb_snapshot_build_seconds", Histogram, [], "How long a snapshot took to build, but for the first.";
    API_REQUESTS = "tunlb_api_requests_total", Counter, ["route", "code"], "Requests to the API and to the metrics listener, by status code.";

    FORWARDED_PACKETS = "tunlb_forwarded_packets_total", Counter, [], "Packets that left for backends, those that are configured no more among them.";
    FORWARDED_BYTES = "tunlb_forwarded_bytes_total", Counter, [], "Their bytes, without outer headers.";
    DROPS = "tunlb_drops_total", Counter, ["reason"], "Packets dropped by the director.";
    REPLIES = "tunlb_replies_total", Counter, [], "Packets that the director answered itself: echo requests, packets too big for a path.";
    TUN_DROPPED = "tunlb_tun_dropped_packets_total", Counter, [], "Packets that the kernel dropped before tunlb could read them: the TUN's queue was full.";
    XDP_PACKETS = "tunlb_xdp_packets_total", Counter, ["outcome"], "Packets that the XDP program saw, by how they left or why they went on to the kernel.";
    DEVICE_DROPPED = "tunlb_device_dropped_packets_total", Counter, ["device"], "Packets, anybody's, that a device to the backends or its queueing discipline dropped since the director began.";
    SEND_ERRORS = "tunlb_send_errors_total", Counter, ["errno"], "Packets that the kernel did not take, by the error's name.";
    FLOWS = "tunlb_flows", Gauge, [], "Flows in the tables of all workers.";
    FLOWS_LIMIT = "tunlb_flows_limit", Gauge, [], "Most flows that are remembered (director.flows).";
    FLOW_EVICTIONS = "tunlb_flow_evictions_total", Counter, ["class"], "Flows that made room for others before their time, by what they were.";
    FRAGMENTS_HELD = "tunlb_fragments_held", Gauge, [], "Fragments that wait for others of their datagrams.";
    BATCH = "tunlb_worker_batch_packets", Histogram, [], "Packets that a worker read at once, of all workers; reads of nothing do not count.";
    HEARTBEAT = "tunlb_worker_heartbeat_age_seconds", Gauge, ["worker"], "Since the worker last looked up from its work or its sleep; it is woken at least once a second.";

    VIP_BACKENDS = "tunlb_vip_backends", Gauge, ["vip", "state"], "Backends by the state that the operator wants.";
    VIP_HEALTHY = "tunlb_vip_healthy_backends", Gauge, ["vip"], "Backends that are not known to be down.";
    VIP_TAKE_NEW = "tunlb_vip_backends_taking_new_flows", Gauge, ["vip"], "Backends in the ring.";
    VIP_DROPS = "tunlb_vip_drops_total", Counter, ["vip", "reason"], "Packets for it that were dropped; no_backend and too_big always, other reasons once they occurred.";
    VIP_RING_CHANGES = "tunlb_vip_ring_changes_total", Counter, ["vip"], "How often the ring became another one, so that flows may be elsewhere than it puts them.";
    VIP_RING_FINGERPRINT = "tunlb_vip_ring_fingerprint", Gauge, ["vip"], "A hash of what the ring chooses, 32 bits: equal on directors that choose alike; absent while no backend takes new flows.";
    VIP_FAIL_OPEN = "tunlb_vip_fail_open", Gauge, ["vip"], "1 while new flows go to backends that are down, since none is up, or too few.";
    VIP_ANNOUNCED = "tunlb_vip_announced", Gauge, ["vip"], "1 while routers are to send packets of its address here (up), 0 while others are to be preferred (drain, down).";

    PROBE_LOCAL_FAILURES = "tunlb_probe_local_failures_total", Counter, ["reason"], "Probes that found nothing because of a fault of this host.";
    PROBES_IN_FLIGHT = "tunlb_probes_in_flight", Gauge, [], "Probes and follow-ups that wait for an answer.";
    PROBE_LAG = "tunlb_probe_schedule_lag_seconds", Gauge, [], "How much later than planned the last probe started.";
    PROBE_STRAYS = "tunlb_probe_strays_total", Counter, [], "Packets out of the device of probes that no probe sent.";

    BACKEND_PACKETS = "tunlb_backend_packets_total", Counter, ["vip", "backend"], "Packets that left for it.";
    BACKEND_BYTES = "tunlb_backend_bytes_total", Counter, ["vip", "backend"], "Their bytes, without outer headers.";
    BACKEND_NEW_FLOWS = "tunlb_backend_new_flows_total", Counter, ["vip", "backend"], "Flows that began and are remembered.";
    BACKEND_UNTRACKED = "tunlb_backend_untracked_packets_total", Counter, ["vip", "backend"], "Packets beyond new_flows_per_second, for which no flow is remembered.";
    BACKEND_FLOWS = "tunlb_backend_flows", Gauge, ["vip", "backend"], "Flows in the tables.";
    BACKEND_WEIGHT = "tunlb_backend_weight", Gauge, ["vip", "backend"], "Its weight, overrides included.";
    BACKEND_RING_SHARE = "tunlb_backend_ring_share_ratio", Gauge, ["vip", "backend"], "Its part of the ring, and so of new flows: 0 to 1.";
    BACKEND_TAKES_NEW = "tunlb_backend_takes_new_flows", Gauge, ["vip", "backend"], "1 while it is in the ring.";
    BACKEND_HEALTHY = "tunlb_backend_healthy", Gauge, ["vip", "backend"], "0 while it is known to be down.";
    BACKEND_TUNNEL_MTU = "tunlb_backend_tunnel_mtu_bytes", Gauge, ["vip", "backend"], "The longest packet that got through its tunnel when mtu_check looked last.";
    BACKEND_BLACK_HOLE = "tunlb_backend_mtu_black_hole", Gauge, ["vip", "backend"], "1 where longer packets are to get through and nobody says that they do not.";

    BACKEND_PROBES = "tunlb_backend_probes_total", Counter, ["vip", "backend", "result"], "Probes that ended, by what they found; results that occurred.";
    BACKEND_PROBE_LAST = "tunlb_backend_probe_last_seconds", Gauge, ["vip", "backend"], "How long the last probe took.";
    BACKEND_HEALTH_CHANGES = "tunlb_backend_health_changes_total", Counter, ["vip", "backend"], "How often it turned healthy or unhealthy, so that flows had to go another way.";
    BACKEND_HEALTH_CHANGED = "tunlb_backend_health_changed_timestamp_seconds", Gauge, ["vip", "backend"], "When its measured health became what it is, in seconds after the Unix epoch.";
    CERTIFICATE_EXPIRY = "tunlb_certificate_expiry_timestamp_seconds", Gauge, ["vip", "backend"], "When the certificate that it showed last expires, in seconds after the Unix epoch; of checks of the kind https.";

    IPVS_CONNECTIONS = "node_ipvs_connections_total", Counter, [], "Flows that began; as node_exporter names it.";
    IPVS_IN_PACKETS = "node_ipvs_incoming_packets_total", Counter, [], "Packets that left for backends; as node_exporter names it.";
    IPVS_IN_BYTES = "node_ipvs_incoming_bytes_total", Counter, [], "Their bytes; as node_exporter names it.";
    IPVS_OUT_PACKETS = "node_ipvs_outgoing_packets_total", Counter, [], "Always 0: backends answer past the director.";
    IPVS_OUT_BYTES = "node_ipvs_outgoing_bytes_total", Counter, [], "Always 0: backends answer past the director.";
    IPVS_ACTIVE = "node_ipvs_backend_connections_active", Gauge, ["local_address", "local_port", "remote_address", "remote_port", "proto", "local_mark"], "Flows in the tables; as node_exporter names it.";
    IPVS_INACTIVE = "node_ipvs_backend_connections_inactive", Gauge, ["local_address", "local_port", "remote_address", "remote_port", "proto", "local_mark"], "Always 0: all flows count as active.";
    IPVS_WEIGHT = "node_ipvs_backend_weight", Gauge, ["local_address", "local_port", "remote_address", "remote_port", "proto", "local_mark"], "Its weight, overrides included; as node_exporter names it.";
}
