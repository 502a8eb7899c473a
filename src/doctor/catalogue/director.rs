//! D35 to D40: the director.

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
            en: "The VIP is an address of the director (the kernel answers itself), it is not routed into the TUN, the TUN is down or unread, or forwarding is off.",
            zh: "VIP 配在 director 本机（内核自己应答）、没有路由进 TUN、TUN 未启用或没有进程读取，或未打开转发。",
        },
        see: Text {
            en: "`ip route get VIP` on the director.",
            zh: "在 director 上执行 `ip route get VIP`。",
        },
        mend: Text {
            en: "Route the VIP to the TUN and give no device its address. Before IPv6 forwarding is turned on, set accept_ra=2 where routes come by router advertisement: they would go.",
            zh: "把 VIP 路由到 TUN，任何设备上都不配该地址。打开 IPv6 转发之前，在靠路由器通告获得路由的网卡上设 accept_ra=2，否则这些路由会丢失。",
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
            en: "The answer's source, the VIP, is routed into the TUN: strict rp_filter refuses it. A local VIP needs accept_local.",
            zh: "应答的源地址 VIP 路由在 TUN 上，严格的 rp_filter 会拒绝它。若 VIP 是本机地址则需要 accept_local。",
        },
        see: Text {
            en: "`ip route get DIRECTOR from VIP iif eth0` is EINVAL.",
            zh: "`ip route get DIRECTOR from VIP iif eth0` 返回 EINVAL。",
        },
        mend: Text {
            en: "Loose rp_filter (2) on the device by which backends answer.",
            zh: "把后端应答进入的网卡的 rp_filter 设为宽松（2）。",
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
