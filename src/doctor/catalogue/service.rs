//! B19 to B22, B30 to B32: firewall and service.

use super::{Entry, Severity};
use crate::doctor::finding::Code;
use crate::doctor::lang::Text;

/// In packet order.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: Code::backend(19),
        severity: Severity::Fatal,
        title: Text {
            en: "the firewall drops the packet",
            zh: "防火墙丢弃了包",
        },
        happens: Text {
            en: "The client times out.",
            zh: "客户端超时。",
        },
        why: Text {
            en: "A rule or a chain's policy drops protocol 4 on its way in, the decapsulated packet on the tunnel device, or the answer from the VIP.",
            zh: "某条规则或链的默认策略丢弃了进入的协议号 4、隧道设备上解封装出来的包，或以 VIP 为源的应答。",
        },
        see: Text {
            en: "In: IpInReceives grows and IpInDelivers does not. Out: IpOutRequests exceeds IpOutTransmits. The drop reason is NETFILTER_DROP.",
            zh: "入方向：IpInReceives 增长而 IpInDelivers 不增长。出方向：IpOutRequests 大于 IpOutTransmits。丢包原因为 NETFILTER_DROP。",
        },
        mend: Text {
            en: "An accept rule before the one that drops. Never a flush.",
            zh: "在丢弃规则之前加一条放行规则，绝不要清空防火墙。",
        },
    },
    Entry {
        code: Code::backend(20),
        severity: Severity::Fatal,
        title: Text {
            en: "the rule's `ipip` is protocol 94, not 4",
            zh: "规则里的 `ipip` 是协议号 94，不是 4",
        },
        happens: Text {
            en: "The firewall drops the tunnel although a rule seems to accept it.",
            zh: "看起来已有放行规则，防火墙仍丢弃隧道包。",
        },
        why: Text {
            en: "In /etc/protocols `ipip` is 94; IP in IP is 4 and is called `ipencap`.",
            zh: "/etc/protocols 中 `ipip` 是 94;IP-in-IP 是 4，名为 `ipencap`。",
        },
        see: Text {
            en: "`iptables -nvL` shows 94; the rule's counter stays 0.",
            zh: "`iptables -nvL` 显示 94；该规则计数始终为 0。",
        },
        mend: Text {
            en: "Write the number 4.",
            zh: "直接写数字 4。",
        },
    },
    Entry {
        code: Code::backend(21),
        severity: Severity::Intermittent,
        title: Text {
            en: "invalid packets of running flows are dropped",
            zh: "进行中的流被当作 INVALID 丢弃",
        },
        happens: Text {
            en: "New connections work; established ones hang after a conntrack flush or a restart of the firewall.",
            zh: "新连接正常；清空 conntrack 或重启防火墙后，已建立的连接挂住。",
        },
        why: Text {
            en: "A rule drops `ct state invalid`, and with nf_conntrack_tcp_loose=0 conntrack takes up no flow in its middle.",
            zh: "有规则丢弃 `ct state invalid`，而 nf_conntrack_tcp_loose=0 时 conntrack 不接纳中途的流。",
        },
        see: Text {
            en: "The rule's counter; `sysctl net.netfilter.nf_conntrack_tcp_loose`.",
            zh: "规则计数器；`sysctl net.netfilter.nf_conntrack_tcp_loose`。",
        },
        mend: Text {
            en: "nf_conntrack_tcp_loose=1, or `notrack` for the VIP.",
            zh: "nf_conntrack_tcp_loose=1，或对 VIP 设置 `notrack`。",
        },
    },
    Entry {
        code: Code::backend(22),
        severity: Severity::Intermittent,
        title: Text {
            en: "answers may be masqueraded",
            zh: "应答可能被 MASQUERADE",
        },
        happens: Text {
            en: "New flows are fine; after a conntrack flush answers leave from the backend's own address and the client drops them.",
            zh: "新的流正常；清空 conntrack 后应答从后端自身地址发出，被客户端丢弃。",
        },
        why: Text {
            en: "A postrouting rule rewrites the source of everything that leaves; conntrack exempts an answer only while it knows its request.",
            zh: "postrouting 规则改写所有发出包的源地址；只有 conntrack 记得对应请求时，应答才不受影响。",
        },
        see: Text {
            en: "On the physical device an established flow has the backend's address as its source.",
            zh: "在物理网卡上，已建立的流的源地址变成后端自身地址。",
        },
        mend: Text {
            en: "Exempt the VIP before the rule.",
            zh: "在该规则之前豁免 VIP。",
        },
    },
    Entry {
        code: Code::backend(30),
        severity: Severity::Fatal,
        title: Text {
            en: "nothing listens on the VIP's port",
            zh: "VIP 的端口没有监听",
        },
        happens: Text {
            en: "The client is refused (TCP RST from the VIP; UDP: ICMP port unreachable).",
            zh: "客户端被拒绝（TCP：来自 VIP 的 RST；UDP：ICMP 端口不可达）。",
        },
        why: Text {
            en: "The service is not running, listens on another address, port or device, or in another network namespace. The backend's port is the VIP's.",
            zh: "服务没有运行，或监听在别的地址、端口、设备上，或在别的网络命名空间里。后端端口必须等于 VIP 端口。",
        },
        see: Text {
            en: "`ss -tlnp` or `ss -ulnp`; TcpOutRsts or UdpNoPorts grows.",
            zh: "`ss -tlnp` 或 `ss -ulnp`；TcpOutRsts 或 UdpNoPorts 增长。",
        },
        mend: Text {
            en: "Bind the VIP or the wildcard address.",
            zh: "绑定 VIP 或通配地址。",
        },
    },
    Entry {
        code: Code::backend(31),
        severity: Severity::Fatal,
        title: Text {
            en: "a UDP service answers from the wrong address",
            zh: "UDP 服务的应答源地址不对",
        },
        happens: Text {
            en: "Requests arrive, answers leave from the backend's own address, the client drops them.",
            zh: "请求能到达，但应答从后端自身地址发出，被客户端丢弃。",
        },
        why: Text {
            en: "A UDP socket on the wildcard address lets the kernel choose the source of answers, unless the program uses IP_PKTINFO.",
            zh: "绑定通配地址的 UDP 套接字由内核选择应答源地址，除非程序使用 IP_PKTINFO。",
        },
        see: Text {
            en: "`tcpdump -ni eth0 udp` shows the backend's address as the source.",
            zh: "`tcpdump -ni eth0 udp` 看到源地址是后端自身地址。",
        },
        mend: Text {
            en: "Bind the VIP, or use IP_PKTINFO.",
            zh: "绑定 VIP，或使用 IP_PKTINFO。",
        },
    },
    Entry {
        code: Code::backend(32),
        severity: Severity::Intermittent,
        title: Text {
            en: "the accept queue is full",
            zh: "accept 队列已满",
        },
        happens: Text {
            en: "Some or all new connections time out; established ones work.",
            zh: "部分或全部新连接超时，已建立的连接正常。",
        },
        why: Text {
            en: "The service does not accept as fast as connections come, or its backlog is too small.",
            zh: "服务 accept 的速度跟不上，或 backlog 太小。",
        },
        see: Text {
            en: "In `ss -tln` Recv-Q exceeds Send-Q; `nstat -az TcpExtListenOverflows` grows.",
            zh: "`ss -tln` 中 Recv-Q 大于 Send-Q；`nstat -az TcpExtListenOverflows` 增长。",
        },
        mend: Text {
            en: "A larger backlog and net.core.somaxconn; fix the service.",
            zh: "加大 backlog 和 net.core.somaxconn；修复服务本身。",
        },
    },
];
