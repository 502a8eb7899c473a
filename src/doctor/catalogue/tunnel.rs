//! B1 to B7: decapsulation and the VIP.

use super::{Entry, Severity};
use crate::doctor::finding::Code;
use crate::doctor::lang::Text;

/// In packet order.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: Code::backend(1),
        severity: Severity::Fatal,
        title: Text {
            en: "no module decapsulates",
            zh: "没有解封装模块",
        },
        happens: Text {
            en: "The client times out. The kernel answers the director with ICMP protocol unreachable (3/2).",
            zh: "客户端超时。内核向 director 回复 ICMP 协议不可达（3/2）。",
        },
        why: Text {
            en: "Nothing takes protocol 4 (or 41): the module ipip, sit or ip6_tunnel is not loaded and no `tunlb decap` runs. An open raw socket for the protocol suppresses the ICMP.",
            zh: "没有任何程序接收协议号 4（或 41）:ipip、sit 或 ip6_tunnel 模块未加载，也没有运行 `tunlb decap`。若有打开的该协议 raw socket，则连 ICMP 也不会发出。",
        },
        see: Text {
            en: "`nstat -az IpInUnknownProtos` grows; the drop reason is IP_NOPROTO; `lsmod`.",
            zh: "`nstat -az IpInUnknownProtos` 增长；丢包原因为 IP_NOPROTO；`lsmod`。",
        },
        mend: Text {
            en: "`modprobe ipip` and a line in /etc/modules-load.d; where the kernel has no such module, `tunlb decap`.",
            zh: "`modprobe ipip` 并写入 /etc/modules-load.d；内核没有该模块时使用 `tunlb decap`。",
        },
    },
    Entry {
        code: Code::backend(2),
        severity: Severity::Fatal,
        title: Text {
            en: "the tunnel device is down or does not fit",
            zh: "隧道设备未启用或不匹配",
        },
        happens: Text {
            en: "The client times out. The kernel answers the director with ICMP port unreachable (3/3) that quotes protocol 4.",
            zh: "客户端超时。内核向 director 回复 ICMP 端口不可达（3/3），引用的是协议号 4 的包。",
        },
        why: Text {
            en: "No tunnel device that is up takes the outer packet: it is down, its local or remote is another address, or its mode is for other packets. A tunl0 that is down beside an `external` device that is up is fine.",
            zh: "没有处于 up 状态的隧道设备接收外层包：设备未启用，local 或 remote 是别的地址，或 mode 不对应。tunl0 为 down 但旁边有 up 的 `external` 设备则没有问题。",
        },
        see: Text {
            en: "Protocol 4 is seen on the physical device and the tunnel device's rx counter stays; `ip -details link show type ipip`.",
            zh: "物理网卡上能看到协议号 4，而隧道设备的 rx 计数不动；`ip -details link show type ipip`。",
        },
        mend: Text {
            en: "`ip link set tunl0 up`, or `ip link add ipip0 type ipip external` and up.",
            zh: "`ip link set tunl0 up`，或 `ip link add ipip0 type ipip external` 并启用。",
        },
    },
    Entry {
        code: Code::backend(3),
        severity: Severity::Fatal,
        title: Text {
            en: "no tunnel device in this network namespace",
            zh: "本网络命名空间没有隧道设备",
        },
        happens: Text {
            en: "The client times out, although the module is loaded.",
            zh: "模块已加载，客户端仍超时。",
        },
        why: Text {
            en: "With net.core.fb_tunnels_only_for_init_net the kernel makes tunl0 in the first namespace only; containers get none.",
            zh: "net.core.fb_tunnels_only_for_init_net 使内核只在初始命名空间创建 tunl0，容器里没有。",
        },
        see: Text {
            en: "`ip link show type ipip` shows nothing where the service runs.",
            zh: "在服务所在的命名空间里，`ip link show type ipip` 没有输出。",
        },
        mend: Text {
            en: "Make a device inside the namespace: `ip link add ipip0 type ipip external`.",
            zh: "在该命名空间里创建设备：`ip link add ipip0 type ipip external`。",
        },
    },
    Entry {
        code: Code::backend(4),
        severity: Severity::Fatal,
        title: Text {
            en: "the GUE port is not bound",
            zh: "GUE 端口没有绑定",
        },
        happens: Text {
            en: "The client times out. The director gets ICMP port unreachable (3/3) that quotes UDP.",
            zh: "客户端超时。director 收到引用 UDP 的 ICMP 端口不可达（3/3）。",
        },
        why: Text {
            en: "GUE arrives as UDP; no fou port and no `tunlb decap --gue` takes it.",
            zh: "GUE 以 UDP 到达，但没有 fou 端口或 `tunlb decap --gue` 接收。",
        },
        see: Text {
            en: "`nstat -az UdpNoPorts` grows; `ip fou show`.",
            zh: "`nstat -az UdpNoPorts` 增长；`ip fou show`。",
        },
        mend: Text {
            en: "`modprobe fou; ip fou add port N gue`, or `tunlb decap --gue N`.",
            zh: "`modprobe fou; ip fou add port N gue`，或 `tunlb decap --gue N`。",
        },
    },
    Entry {
        code: Code::backend(5),
        severity: Severity::Fatal,
        title: Text {
            en: "the VIP is not on the backend",
            zh: "后端没有配置 VIP",
        },
        happens: Text {
            en: "The client times out; there is no ICMP.",
            zh: "客户端超时，没有任何 ICMP。",
        },
        why: Text {
            en: "The inner packet's destination is no local address and forwarding is off. (A VIP that stands on the tunnel device only works, and is a warning: it goes with the device.)",
            zh: "内层包的目的地址不是本机地址，且未打开转发。（VIP 只配在隧道设备上可以工作，但会给出警告：它会随设备消失。）",
        },
        see: Text {
            en: "`nstat -az IpInAddrErrors` grows; the drop reason is IP_INADDRERRORS; `ip route get VIP` is not local.",
            zh: "`nstat -az IpInAddrErrors` 增长；丢包原因为 IP_INADDRERRORS；`ip route get VIP` 的结果不是 local。",
        },
        mend: Text {
            en: "`ip addr add VIP/32 dev lo`, or `ip route add local VIP dev lo`.",
            zh: "`ip addr add VIP/32 dev lo`，或 `ip route add local VIP dev lo`。",
        },
    },
    Entry {
        code: Code::backend(6),
        severity: Severity::Fatal,
        title: Text {
            en: "the VIP is not on the backend, which forwards",
            zh: "后端没有 VIP，又打开了转发",
        },
        happens: Text {
            en: "Each packet goes back out with its TTL one lower and loops through the director until the TTL ends.",
            zh: "每个包的 TTL 减一后又被转发出去，经 director 循环直到 TTL 耗尽。",
        },
        why: Text {
            en: "The inner packet's destination is no local address and forwarding is on, as on container hosts.",
            zh: "内层包的目的地址不是本机地址，而转发是打开的（容器主机常见）。",
        },
        see: Text {
            en: "`nstat -az IpForwDatagrams` grows and IpInDelivers does not.",
            zh: "`nstat -az IpForwDatagrams` 增长而 IpInDelivers 不增长。",
        },
        mend: Text {
            en: "`ip addr add VIP/32 dev lo`.",
            zh: "`ip addr add VIP/32 dev lo`。",
        },
    },
    Entry {
        code: Code::backend(7),
        severity: Severity::Partial,
        title: Text {
            en: "the VIP's mask is wider than the VIP",
            zh: "VIP 的掩码过宽",
        },
        happens: Text {
            en: "Clients, and gateways, of the VIP's subnet get no answer.",
            zh: "与 VIP 同一子网的客户端和网关得不到应答。",
        },
        why: Text {
            en: "On lo the whole subnet is local; on the tunnel device it is routed into the tunnel.",
            zh: "配在 lo 上时整个子网都成为本机地址；配在隧道设备上时该子网被路由进隧道。",
        },
        see: Text {
            en: "`ip addr show`; `ip route get CLIENT` is local or leaves by the tunnel device.",
            zh: "`ip addr show`；`ip route get CLIENT` 的结果是 local 或从隧道设备出去。",
        },
        mend: Text {
            en: "Add the VIP anew as /32 (/128) and delete the wide one.",
            zh: "以 /32（/128）重新添加 VIP，删除掩码过宽的那个。",
        },
    },
];
