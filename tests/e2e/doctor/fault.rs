//! Faults of a backend, by their names: how each is made and undone, and what it must be called.

/// Something wrong on the backend.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// What the doctor must answer where it is alone, such as `fail B10`; `or` between two that may be.
    pub(super) verdict: &'static str,
    pub(super) effect: Effect,
    /// Shell, on the backend.
    pub(super) inject: &'static str,
    /// Shell, on the backend: good after the doctor's mend, too.
    pub(super) undo: &'static str,
}

impl Fault {
    pub(super) fn is_called(&self, verdict: &str) -> bool {
        self.verdict.split(" or ").any(|called| called == verdict)
    }
}

/// What the client sees of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// No answer, until the doctor's commands have run.
    Dead,
    /// No answer, and no command on this host mends it.
    DeadElsewhere,
    /// Answers: it is a risk, or this client is not the one that it hits.
    Hidden,
}

use Effect::{Dead, DeadElsewhere, Hidden};

const fn fault(
    name: &'static str,
    verdict: &'static str,
    effect: Effect,
    inject: &'static str,
    undo: &'static str,
) -> Fault {
    Fault {
        name,
        verdict,
        effect,
        inject,
        undo,
    }
}

const FORGET_TABLE: &str = "nft delete table inet fault";
const FORGET_IPTABLES: &str = "nft flush ruleset";
const FORGET_LEGACY: &str =
    "iptables-legacy -P INPUT ACCEPT; iptables-legacy -F; iptables-legacy -X";

/// Each alone is on a backend that works: VIP on lo, rp_filter 0, `tunlb decap` on decap0.
pub(super) const FAULTS: &[Fault] = &[
    // ------------------------------------------------------------------------- the VIP
    fault(
        "no VIP",
        "fail B5",
        Dead,
        "ip addr del 10.0.0.100/32 dev lo",
        "ip addr replace 10.0.0.100/32 dev lo",
    ),
    fault(
        "no VIP on a router",
        "fail B6",
        Dead,
        "ip addr del 10.0.0.100/32 dev lo; echo 1 >/proc/sys/net/ipv4/ip_forward",
        "ip addr replace 10.0.0.100/32 dev lo; echo 0 >/proc/sys/net/ipv4/ip_forward",
    ),
    fault(
        "AnyIP in a table that answers are not looked up in", // ip_route_output_key_hash_rcu
        "fail B5",
        Dead,
        "ip addr del 10.0.0.100/32 dev lo; ip route add local 10.0.0.100 dev lo table 100
         ip rule add to 10.0.0.100 lookup 100",
        "ip rule del to 10.0.0.100; ip route flush table 100; ip addr replace 10.0.0.100/32 dev lo",
    ),
    fault(
        "VIP/20 on lo: the client's subnet, too",
        "fail B7",
        Dead,
        "ip addr add 10.0.0.100/20 dev lo; ip addr del 10.0.0.100/32 dev lo",
        "ip addr replace 10.0.0.100/32 dev lo; ip addr del 10.0.0.100/20 dev lo || :",
    ),
    fault(
        "VIP/24 on lo: not the client's subnet",
        "warn B7",
        Hidden,
        "ip addr add 10.0.0.100/24 dev lo; ip addr del 10.0.0.100/32 dev lo",
        "ip addr replace 10.0.0.100/32 dev lo; ip addr del 10.0.0.100/24 dev lo || :",
    ),
    fault(
        "VIP/24 on lo beside VIP/32",
        "warn B7",
        Hidden,
        "ip addr add 10.0.0.100/24 dev lo",
        "ip addr del 10.0.0.100/24 dev lo || :",
    ),
    fault(
        "VIP/20 on the tunnel device",
        "fail B7",
        Dead,
        "ip addr add 10.0.0.100/20 dev decap0; ip addr del 10.0.0.100/32 dev lo",
        "ip addr replace 10.0.0.100/32 dev lo
         for net in 10.0.0.100/20 10.0.0.100/32; do ip addr del $net dev decap0 || :; done",
    ),
    fault(
        "ARP is answered",
        "warn B8",
        Hidden,
        "echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_ignore",
        "echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_ignore; echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore",
    ),
    fault(
        "VIP on eth0",
        "warn B8", // a fault where the segment asks for it
        Hidden,
        "ip addr add 10.0.0.100/32 dev eth0",
        "ip addr del 10.0.0.100/32 dev eth0 || :; ip addr replace 10.0.0.100/32 dev lo",
    ),
    fault(
        "ARP announces the VIP",
        "warn B9",
        Hidden,
        "echo 0 >/proc/sys/net/ipv4/conf/eth0/arp_announce",
        "echo 2 >/proc/sys/net/ipv4/conf/eth0/arp_announce; echo 0 >/proc/sys/net/ipv4/conf/all/arp_announce",
    ),
    // --------------------------------------------------------------- source validation
    fault(
        "strict rp_filter on the tunnel device",
        "fail B10",
        Dead,
        "echo 1 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        "echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
    ),
    fault(
        "strict rp_filter on all",
        "fail B10",
        Dead,
        "echo 1 >/proc/sys/net/ipv4/conf/all/rp_filter",
        "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter",
    ),
    fault(
        "loose rp_filter on all, no address on the tunnel device",
        "fail B11",
        Dead,
        "echo 2 >/proc/sys/net/ipv4/conf/all/rp_filter",
        "echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; ip addr del 127.0.0.42/32 dev decap0 || :",
    ),
    fault(
        "loose rp_filter on the tunnel device, which has no address",
        "fail B11",
        Dead,
        "echo 2 >/proc/sys/net/ipv4/conf/decap0/rp_filter",
        "echo 0 >/proc/sys/net/ipv4/conf/decap0/rp_filter; ip addr del 127.0.0.42/32 dev decap0 || :",
    ),
    fault(
        "reverse-path check in nft",
        "fail B13",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault early { type filter hook prerouting priority raw; }'
         nft add rule inet fault early fib saddr . iif oif missing drop",
        FORGET_TABLE,
    ),
    fault(
        "reverse-path check in iptables",
        "fail B13",
        Dead,
        "iptables-nft -t raw -A PREROUTING -m rpfilter --invert -j DROP",
        FORGET_IPTABLES,
    ),
    fault(
        "the client's address is here, too",
        "fail B14",
        DeadElsewhere,
        "ip addr add 10.0.9.2/32 dev lo",
        "ip addr del 10.0.9.2/32 dev lo; echo 0 >/proc/sys/net/ipv4/conf/decap0/accept_local",
    ),
    // -------------------------------------------------------------------- the way back
    fault(
        "no route",
        "fail B15",
        Dead,
        "ip route del default",
        "ip route replace default via 10.0.1.1",
    ),
    fault(
        "an unreachable route",
        "fail B15",
        Dead,
        "ip route add unreachable 10.0.9.0/24",
        "ip route del unreachable 10.0.9.0/24; ip route del 10.0.9.2 || :",
    ),
    fault(
        "the way back into the tunnel",
        "fail B16",
        Dead,
        "ip route add 10.0.9.0/24 dev decap0",
        "ip route del 10.0.9.0/24 dev decap0; ip route del 10.0.9.2 || :",
    ),
    fault(
        "the way back through the director",
        "warn B16", // it carries answers, too, where it does not filter by source
        Hidden,
        "ip route add 10.0.9.0/24 via 10.0.1.2",
        "ip route del 10.0.9.0/24; ip route del 10.0.9.2 || :",
    ),
    fault(
        "a policy rule without the VIP",
        "fail B17",
        Dead,
        "ip route del default; ip route add default via 10.0.1.1 table 100
         ip rule add from 10.0.1.11 lookup 100",
        "ip rule del from 10.0.1.11; ip rule del from 10.0.0.100 || :
         ip route flush table 100; ip route replace default via 10.0.1.1",
    ),
    fault(
        "a policy rule against the VIP",
        "fail B17",
        Dead,
        "ip rule add from 10.0.0.100 prohibit",
        "ip rule del from 10.0.0.100 prohibit; ip rule del from 10.0.0.100 lookup main || :",
    ),
    fault(
        "a gateway that does not answer",
        "fail B18",
        DeadElsewhere,
        "ip route replace default via 10.0.1.77; ip neigh replace 10.0.1.77 dev eth0 use
         until ip neigh show 10.0.1.77 dev eth0 | grep -qE 'INCOMPLETE|FAILED'; do :; done",
        "ip route replace default via 10.0.1.1; ip neigh del 10.0.1.77 dev eth0 || :",
    ),
    // ------------------------------------------------------------------- packet filters
    fault(
        "nft drops protocol 4",
        "fail B19",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault in { type filter hook input priority 0; }'
         nft add rule inet fault in meta l4proto 4 counter drop",
        FORGET_TABLE,
    ),
    fault(
        "nft takes ssh only",
        "fail B19",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault in { type filter hook input priority 0; policy drop; }'
         nft add rule inet fault in ct state established,related accept
         nft add rule inet fault in iif lo accept
         nft add rule inet fault in tcp dport 22 accept",
        FORGET_TABLE,
    ),
    fault(
        "nft rejects the inner packet in a chain of its own",
        "fail B19",
        Dead,
        "nft add table ip fault
         nft 'add chain ip fault in { type filter hook input priority 0; }'
         nft add chain ip fault web
         nft add rule ip fault in iifname decap0 tcp dport { 80, 443 } jump web
         nft add rule ip fault web reject",
        "nft delete table ip fault",
    ),
    fault(
        "nft takes tunnels of another director",
        "fail B19",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault in { type filter hook input priority 0; policy drop; }'
         nft add rule inet fault in ip saddr 10.0.5.0/24 meta l4proto 4 accept
         nft add rule inet fault in tcp dport 80 accept",
        FORGET_TABLE,
    ),
    fault(
        "nft drops the answer",
        "fail B19",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault out { type filter hook output priority 0; }'
         nft add rule inet fault out ip saddr 10.0.0.100 drop",
        FORGET_TABLE,
    ),
    fault(
        "nft drops protocol 4 on the device",
        "fail B19 or unknown B19", // nft 1.0 does not tell the device in JSON
        Dead,
        "nft add table netdev fault
         nft 'add chain netdev fault in { type filter hook ingress device eth0 priority 0; }'
         nft add rule netdev fault in ip protocol 4 drop",
        "nft delete table netdev fault",
    ),
    fault(
        "iptables drops protocol 4",
        "fail B19",
        Dead,
        "iptables-nft -A INPUT -p 4 -j DROP",
        FORGET_IPTABLES,
    ),
    fault(
        "iptables drops the inner packet in a chain of its own",
        "fail B19",
        Dead,
        "iptables-nft -N web; iptables-nft -A INPUT -i decap0 -j web
         iptables-nft -A web -p tcp --dport 80 -j REJECT",
        FORGET_IPTABLES,
    ),
    fault(
        "iptables drops the answer",
        "fail B19",
        Dead,
        "iptables-nft -t mangle -A OUTPUT -s 10.0.0.100 -j DROP",
        FORGET_IPTABLES,
    ),
    fault(
        "iptables takes established connections only",
        "fail B19",
        Dead,
        "iptables-nft -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
         iptables-nft -P INPUT DROP",
        FORGET_IPTABLES,
    ),
    fault(
        "iptables-legacy drops protocol 4",
        "fail B19",
        Dead,
        "iptables-legacy -A INPUT -p 4 -j DROP",
        FORGET_LEGACY,
    ),
    fault(
        "iptables-legacy takes ssh only",
        "fail B19",
        Dead,
        "iptables-legacy -A INPUT -p tcp --dport 22 -j ACCEPT; iptables-legacy -P INPUT DROP",
        FORGET_LEGACY,
    ),
    fault(
        "nft takes protocol 94, called ipip",
        "fail B20",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault in { type filter hook input priority 0; policy drop; }'
         nft add rule inet fault in meta l4proto 94 accept
         nft add rule inet fault in tcp dport 80 accept",
        FORGET_TABLE,
    ),
    fault(
        "iptables takes protocol 94, called ipip",
        "fail B20",
        Dead,
        "iptables-nft -A INPUT -p 94 -j ACCEPT; iptables-nft -A INPUT -p tcp -j ACCEPT
         iptables-nft -P INPUT DROP",
        FORGET_IPTABLES,
    ),
    fault(
        "invalid packets are dropped, flows taken up nowhere but at their SYN",
        "warn B21",
        Hidden,
        "nft add table inet fault
         nft 'add chain inet fault in { type filter hook input priority 0; }'
         nft add rule inet fault in ct state invalid drop
         echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose",
        "nft delete table inet fault; echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose",
    ),
    fault(
        "nft redirects to a port on which nothing listens",
        "fail B30",
        DeadElsewhere,
        "nft add table ip fault
         nft 'add chain ip fault pre { type nat hook prerouting priority dstnat; }'
         nft add rule ip fault pre tcp dport 80 redirect to :8080",
        "nft delete table ip fault",
    ),
    fault(
        "iptables sends the VIP's packets to a container that is gone",
        "fail B30",
        DeadElsewhere,
        "iptables-nft -t nat -A PREROUTING -d 10.0.0.100 -p tcp --dport 80 -j DNAT --to 172.17.0.2:80",
        FORGET_IPTABLES,
    ),
    fault(
        "nft drops answers whose source is not the host's own",
        "fail B19",
        Dead,
        "nft add table inet fault
         nft 'add chain inet fault out { type filter hook output priority 0; }'
         nft add rule inet fault out oifname eth0 ip saddr != 10.0.1.11 drop",
        FORGET_TABLE,
    ),
    fault(
        "iptables-legacy drops the inner packet in mangle",
        "fail B19",
        Dead,
        "iptables-legacy -t mangle -A INPUT -d 10.0.0.100 -j DROP",
        "iptables-legacy -t mangle -F",
    ),
    fault(
        "nft masquerades",
        "warn B22",
        Hidden,
        "nft add table ip fault
         nft 'add chain ip fault post { type nat hook postrouting priority srcnat; }'
         nft add rule ip fault post oifname eth0 masquerade",
        "nft delete table ip fault",
    ),
    fault(
        "iptables masquerades",
        "warn B22",
        Hidden,
        "iptables-nft -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
        FORGET_IPTABLES,
    ),
];

pub(super) fn named(name: &str) -> &'static Fault {
    let mut faults = FAULTS.iter();
    faults
        .find(|fault| fault.name == name)
        .unwrap_or_else(|| panic!("no fault is called {name:?}"))
}
