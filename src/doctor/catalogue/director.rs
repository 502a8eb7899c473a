//! D35 to D42: the director.

use super::{Entry, Severity};
use crate::doctor::finding::Code;
use crate::doctor::lang::Text;

/// In packet order.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: Code::director(35),
        severity: Severity::Fatal,
        title: Text {
            en: "the VIP's packets do not reach the TUN",
            zh: "VIP 的包到不了 TUN",
        },
        happens: Text {
            en: "The client is refused or times out; the director counts nothing.",
            zh: "客户端被拒绝或超时；director 没有任何计数。",
        },
        why: Text {
            en: "The VIP is an address of the director (the kernel answers itself), it is not routed into the TUN, the TUN is down or unread, forwarding is off, or the host's own filters drop forwarded packets (Docker sets policy DROP; firewalld drops what conntrack calls invalid, and a director sees one direction only).",
            zh: "VIP 配在 director 本机（内核自己应答）、没有路由进 TUN、TUN 未启用或没有进程读取、未打开转发，或本机自己的过滤规则丢弃转发的包（Docker 设策略 DROP;firewalld 丢弃 conntrack 视为 invalid 的包，而 director 只看到一个方向）。",
        },
        see: Text {
            en: "`ip route get VIP` on the director.",
            zh: "在 director 上执行 `ip route get VIP`。",
        },
        mend: Text {
            en: "Route the VIP to the TUN and give no device its address. Accept what is forwarded into the TUN, and spare the VIP conntrack (notrack). Before IPv6 forwarding is turned on, set accept_ra=2 where routes come by router advertisement: they would go.",
            zh: "把 VIP 路由到 TUN，任何设备上都不配该地址。放行转发进 TUN 的包，并让 VIP 不经 conntrack(notrack)。打开 IPv6 转发之前，在靠路由器通告获得路由的网卡上设 accept_ra=2，否则这些路由会丢失。",
        },
    },
    Entry {
        code: Code::director(42),
        severity: Severity::Fatal,
        title: Text {
            en: "another machine answers for the VIP in the director's subnet",
            zh: "director 的子网内有另一台机器应答 VIP",
        },
        happens: Text {
            en: "Clients of that subnet, and its router, reach the other machine; the director counts nothing of them.",
            zh: "该子网的客户端和路由器会到达另一台机器；director 对它们没有任何计数。",
        },
        why: Text {
            en: "The address is in use there, a backend answers ARP for it (B8), or another director holds it. tunlb does not claim it then.",
            zh: "该地址已被占用、后端应答了它的 ARP（B8），或另一台 director 持有它。此时 tunlb 不会占用该地址。",
        },
        see: Text {
            en: "`arping -I eth0 VIP` on the director: the MAC that answers.",
            zh: "在 director 上执行 `arping -I eth0 VIP`：查看应答的 MAC。",
        },
        mend: Text {
            en: "Remove the address from that machine, or set arp_ignore on that backend; then reload the director.",
            zh: "从那台机器移除该地址，或在该后端设置 arp_ignore；然后让 director 重新加载。",
        },
    },
    Entry {
        code: Code::director(41),
        severity: Severity::Fatal,
        title: Text {
            en: "nothing answers for the VIP in the director's own subnet",
            zh: "director 的子网内没有机器应答 VIP",
        },
        happens: Text {
            en: "Clients of that subnet get \"no route to host\" after three seconds; the director counts nothing. Clients elsewhere depend on their router.",
            zh: "该子网的客户端三秒后得到 \"no route to host\"；director 没有任何计数。其他客户端取决于它们的路由器。",
        },
        why: Text {
            en: "A VIP in a subnet is asked for by ARP or neighbour discovery, and no machine has it as an address that it answers for. The kernel answers for others' addresses only with a proxy entry, and with forwarding on.",
            zh: "子网内的 VIP 要靠 ARP 或邻居发现来查找，而没有机器应答它。内核只有在有代理表项且打开转发时才会代为应答。",
        },
        see: Text {
            en: "`ip neigh show proxy` on the director; INCOMPLETE or FAILED in `ip neigh` of a client.",
            zh: "director 上的 `ip neigh show proxy`；客户端 `ip neigh` 中的 INCOMPLETE 或 FAILED。",
        },
        mend: Text {
            en: "`tunlb run --setup`, or `neighbour = \"eth0\"` in its file: it answers, announces, and stops both on exit. By hand: `ip neigh add proxy VIP dev eth0`, for IPv6 also proxy_ndp=1.",
            zh: "使用 `tunlb run --setup`，或在配置文件中写 `neighbour = \"eth0\"`：它会应答并通告，退出时撤销。手工：`ip neigh add proxy VIP dev eth0`,IPv6 还需 proxy_ndp=1。",
        },
    },
    Entry {
        code: Code::director(36),
        severity: Severity::Fatal,
        title: Text {
            en: "answers to the director's own probes are dropped",
            zh: "director 自己的探测收不到应答",
        },
        happens: Text {
            en: "Probes through the tunnel fail although clients are served.",
            zh: "客户端正常，但经隧道的探测失败。",
        },
        why: Text {
            en: "The answer's source, the VIP, is routed into the TUN: strict rp_filter refuses it; or a filter for incoming packets drops it. A local VIP needs accept_local. Or a rule takes the probe itself: MASQUERADE without an exception gives it another source, an OUTPUT rule drops it.",
            zh: "应答的源地址 VIP 路由在 TUN 上，严格的 rp_filter 会拒绝它；或入站过滤规则丢弃了它。若 VIP 是本机地址则需要 accept_local。也可能是规则作用于探测本身：没有例外的 MASQUERADE 改写了源地址，或 OUTPUT 规则将其丢弃。",
        },
        see: Text {
            en: "`ip route get DIRECTOR from VIP iif eth0` is EINVAL; `tunlb probe` sees the answer arrive on the device, or the probe leave with another source.",
            zh: "`ip route get DIRECTOR from VIP iif eth0` 返回 EINVAL；`tunlb probe` 能看到应答到达网卡，或探测以别的源地址发出。",
        },
        mend: Text {
            en: "Loose rp_filter (2) on the device by which backends answer; accept what comes from the VIP; except the VIP from MASQUERADE and OUTPUT rules.",
            zh: "把后端应答进入的网卡的 rp_filter 设为宽松（2）；放行来自 VIP 的包；在 MASQUERADE 和 OUTPUT 规则中排除 VIP。",
        },
    },
    Entry {
        code: Code::director(38),
        severity: Severity::Fatal,
        title: Text {
            en: "packets to a backend do not leave",
            zh: "发往后端的包发不出去",
        },
        happens: Text {
            en: "One backend's share of the clients, or all, time out.",
            zh: "某台后端对应的客户端（或全部）超时。",
        },
        why: Text {
            en: "No route (ENETUNREACH), a firewall (EPERM), packets over the MTU (EMSGSIZE), or a next hop that does not answer, which the kernel does not report at all.",
            zh: "没有路由（ENETUNREACH）、防火墙（EPERM）、超过 MTU(EMSGSIZE)，或下一跳没有回应（内核完全不报错）。",
        },
        see: Text {
            en: "`send_failed` of the director's counters; `ip route get BACKEND`; `ip neigh`.",
            zh: "director 计数器中的 `send_failed`；`ip route get BACKEND`；`ip neigh`。",
        },
        mend: Text {
            en: "As the errno says.",
            zh: "按具体 errno 处理。",
        },
    },
    Entry {
        code: Code::director(37),
        severity: Severity::Partial,
        title: Text {
            en: "the kernel resets the director's raw probe",
            zh: "内核复位了 director 的原始探测",
        },
        happens: Text {
            en: "The backend sees a reset after each probe.",
            zh: "后端在每次探测后都收到 RST。",
        },
        why: Text {
            en: "The SYN-ACK of a raw SYN finds no socket; the kernel's RST is routed into the director's own TUN.",
            zh: "原始 SYN 得到的 SYN-ACK 找不到套接字，内核发出的 RST 被路由进 director 自己的 TUN。",
        },
        see: Text {
            en: "An RST from the director to the VIP on the TUN.",
            zh: "在 TUN 上看到 director 发往 VIP 的 RST。",
        },
        mend: Text {
            en: "Drop resets from the director there and end the probe with a reset through the tunnel.",
            zh: "在 TUN 上丢弃 director 发出的 RST，并经隧道发 RST 结束探测。",
        },
    },
    Entry {
        code: Code::director(39),
        severity: Severity::Info,
        title: Text {
            en: "what the kernel rewrites in raw packets",
            zh: "内核对原始包的改写",
        },
        happens: Text {
            en: "With IP_HDRINCL the kernel sets the checksum and the total length always, the source and the identification where they are 0.",
            zh: "使用 IP_HDRINCL 时，内核总会设置校验和与总长度；源地址和标识为 0 时也会填写。",
        },
        why: Text {
            en: "raw(7).",
            zh: "raw(7)。",
        },
        see: Text {
            en: "A capture of what leaves.",
            zh: "抓取发出的包。",
        },
        mend: Text {
            en: "tunlb sets them itself; nothing is to be done.",
            zh: "tunlb 自行设置，无需处理。",
        },
    },
    Entry {
        code: Code::director(40),
        severity: Severity::Fatal,
        title: Text {
            en: "checks pass while the VIP's path is dead",
            zh: "健康检查通过而 VIP 的路径不通",
        },
        happens: Text {
            en: "The director thinks a backend well that answers no client.",
            zh: "director 认为正常的后端其实不回应客户端。",
        },
        why: Text {
            en: "Checks aim at the backend's own address and never cross the tunnel.",
            zh: "检查的是后端自身地址，从不经过隧道。",
        },
        see: Text {
            en: "Plain TCP to the backend works, the VIP does not.",
            zh: "直接 TCP 到后端正常，VIP 不通。",
        },
        mend: Text {
            en: "Probe with the inner destination VIP through the tunnel.",
            zh: "以 VIP 为内层目的地址、经隧道探测。",
        },
    },
];
