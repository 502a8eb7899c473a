//! B8, B9, B23 to B29: ARP, size, offload and the network.

use super::{Entry, Severity};
use crate::doctor::finding::Code;
use crate::doctor::lang::Text;

/// In packet order.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: Code::backend(24),
        severity: Severity::Partial,
        title: Text {
            en: "uploads hang on the tunnel's MTU",
            zh: "上传因隧道 MTU 挂住",
        },
        happens: Text {
            en: "The handshake and small requests work; uploads start 200 ms late, or hang.",
            zh: "握手和小请求正常；上传晚 200 毫秒开始，或挂住。",
        },
        why: Text {
            en: "The backend announces an MSS for its own MTU; full segments do not fit the tunnel, and the director's Fragmentation Needed does not reach the client.",
            zh: "后端按自己的 MTU 通告 MSS；满长度的段放不进隧道，而 director 的 Fragmentation Needed 到不了客户端。",
        },
        see: Text {
            en: "The SYN-ACK's MSS exceeds the path minus the outer header; the director's IcmpOutDestUnreachs climbs.",
            zh: "SYN-ACK 的 MSS 大于路径 MTU 减去外层头；director 的 IcmpOutDestUnreachs 增长。",
        },
        mend: Text {
            en: "`tunlb decap --setup`, or on the backend `ip route change default … advmss 1440`; let ICMP 3/4 through.",
            zh: "使用 `tunlb decap --setup`，或在后端执行 `ip route change default … advmss 1440`；放行 ICMP 3/4。",
        },
    },
    Entry {
        code: Code::backend(25),
        severity: Severity::Partial,
        title: Text {
            en: "ICMP errors reach the wrong backend",
            zh: "ICMP 错误送到了错误的后端",
        },
        happens: Text {
            en: "Downloads hang for clients behind a smaller MTU.",
            zh: "位于较小 MTU 之后的客户端下载挂住。",
        },
        why: Text {
            en: "The director chooses a backend by the router's address instead of the quoted flow (RFC 7690).",
            zh: "director 按路由器地址而不是被引用的流来选择后端（RFC 7690）。",
        },
        see: Text {
            en: "ICMP 3/4 for the VIP arrives at another backend than the flow's.",
            zh: "发往 VIP 的 ICMP 3/4 到达了另一台后端。",
        },
        mend: Text {
            en: "A director that forwards by the quoted tuple, as tunlb does.",
            zh: "使用按被引用的五元组转发的 director,tunlb 即如此。",
        },
    },
    Entry {
        code: Code::backend(26),
        severity: Severity::Partial,
        title: Text {
            en: "packets arrive with wrong checksums",
            zh: "到达的包校验和错误",
        },
        happens: Text {
            en: "Connections hang or are slow.",
            zh: "连接挂住或很慢。",
        },
        why: Text {
            en: "An offload of the NIC or the tunnel device is broken, or a sender left checksums partial.",
            zh: "网卡或隧道设备的 offload 有缺陷，或发送端留下了未完成的校验和。",
        },
        see: Text {
            en: "`nstat -az TcpInCsumErrors` grows.",
            zh: "`nstat -az TcpInCsumErrors` 增长。",
        },
        mend: Text {
            en: "`ethtool -K T tx off`.",
            zh: "`ethtool -K T tx off`。",
        },
    },
    Entry {
        code: Code::backend(27),
        severity: Severity::Fatal,
        title: Text {
            en: "partial checksums leave the director",
            zh: "director 发出未完成的校验和",
        },
        happens: Text {
            en: "In labs on one machine the backend drops every packet.",
            zh: "在单机实验环境里，后端丢弃所有包。",
        },
        why: Text {
            en: "A sender behind a veth or virtio NIC leaves the checksum to hardware that never comes; AF_PACKET shows it (auxdata 0x8).",
            zh: "veth 或 virtio 后面的发送端把校验和留给并不存在的硬件；AF_PACKET 能看到（auxdata 0x8）。",
        },
        see: Text {
            en: "TcpInCsumErrors grows on the backend.",
            zh: "后端的 TcpInCsumErrors 增长。",
        },
        mend: Text {
            en: "A director that completes checksums, as tunlb does.",
            zh: "使用会补全校验和的 director,tunlb 即如此。",
        },
    },
    Entry {
        code: Code::backend(28),
        severity: Severity::Partial,
        title: Text {
            en: "superpackets reach the tunnel",
            zh: "超大包进入隧道",
        },
        happens: Text {
            en: "Throughput collapses or large transfers hang.",
            zh: "吞吐骤降或大传输挂住。",
        },
        why: Text {
            en: "Offloads join packets up to 65 KB, which AF_PACKET reads whole and which no tunnel carries.",
            zh: "offload 把包合并到最大 65 KB,AF_PACKET 会整个读到，而隧道无法承载。",
        },
        see: Text {
            en: "A capture on the director shows packets larger than the MTU.",
            zh: "在 director 上抓包能看到大于 MTU 的包。",
        },
        mend: Text {
            en: "Segment them, or read from a TUN without offloads, as tunlb does.",
            zh: "对其分段，或从不带 offload 的 TUN 读取，tunlb 即如此。",
        },
    },
    Entry {
        code: Code::backend(29),
        severity: Severity::Partial,
        title: Text {
            en: "one receive queue takes all tunnels",
            zh: "所有隧道包落在同一个接收队列",
        },
        happens: Text {
            en: "One CPU of the backend is busy, the others idle.",
            zh: "后端一个 CPU 很忙，其他空闲。",
        },
        why: Text {
            en: "Every outer header has the same two addresses, so the NIC hashes all flows to one queue.",
            zh: "所有外层头的两个地址都相同，网卡把所有流散列到同一队列。",
        },
        see: Text {
            en: "`ethtool -S eth0` per queue.",
            zh: "`ethtool -S eth0` 查看各队列计数。",
        },
        mend: Text {
            en: "An entropy source (`source = \"172.16.0.0/16\"`) or GUE; the ICMP evidence of rows 1 to 3 is then lost.",
            zh: "使用熵源地址（`source = \"172.16.0.0/16\"`）或 GUE；代价是失去第 1 至 3 行的 ICMP 证据。",
        },
    },
    Entry {
        code: Code::backend(8),
        severity: Severity::Intermittent,
        title: Text {
            en: "the backend answers ARP for the VIP",
            zh: "后端应答 VIP 的 ARP",
        },
        happens: Text {
            en: "Some clients bypass the director, or all do after an ARP entry expires; no error counter moves.",
            zh: "部分客户端绕过 director,ARP 表项过期后甚至全部绕过；没有任何错误计数。",
        },
        why: Text {
            en: "A VIP on lo is answered for on every segment unless the larger one of all.arp_ignore and that of the physical device is 1 or more; a VIP on the physical device always is.",
            zh: "配在 lo 上的 VIP 会在每个网段被应答，除非 all.arp_ignore 与物理网卡的 arp_ignore 中较大者不小于 1；直接配在物理网卡上的 VIP 总会被应答。",
        },
        see: Text {
            en: "Several MACs answer `arping VIP`; TcpPassiveOpens grows while the tunnel device's rx stays.",
            zh: "`arping VIP` 有多个 MAC 应答；TcpPassiveOpens 增长而隧道设备的 rx 不动。",
        },
        mend: Text {
            en: "net.ipv4.conf.all.arp_ignore=1; the VIP on lo. lo.arp_ignore alone does nothing.",
            zh: "net.ipv4.conf.all.arp_ignore=1,VIP 配在 lo 上。只设 lo.arp_ignore 不起作用。",
        },
    },
    Entry {
        code: Code::backend(9),
        severity: Severity::Intermittent,
        title: Text {
            en: "the backend announces the VIP by ARP",
            zh: "后端通过 ARP 通告 VIP",
        },
        happens: Text {
            en: "It works until the backend asks for its gateway again; then clients bypass the director.",
            zh: "一直正常，直到后端重新 ARP 请求网关；之后客户端绕过 director。",
        },
        why: Text {
            en: "With arp_announce below 2 the kernel puts the VIP into the sender field of its own ARP requests.",
            zh: "arp_announce 小于 2 时，内核会把 VIP 填入自己 ARP 请求的发送者字段。",
        },
        see: Text {
            en: "`tcpdump -ni eth0 arp` shows `tell VIP`; the router's neighbour entry.",
            zh: "`tcpdump -ni eth0 arp` 看到 `tell VIP`；查看路由器的邻居表。",
        },
        mend: Text {
            en: "net.ipv4.conf.all.arp_announce=2.",
            zh: "net.ipv4.conf.all.arp_announce=2。",
        },
    },
    Entry {
        code: Code::backend(23),
        severity: Severity::Fatal,
        title: Text {
            en: "the network drops the tunnel or the answers",
            zh: "网络丢弃隧道包或应答",
        },
        happens: Text {
            en: "Both machines are right and the client times out.",
            zh: "两端机器都正常，客户端仍超时。",
        },
        why: Text {
            en: "A cloud's security group drops protocol 4, or its source check drops answers from the VIP.",
            zh: "云的安全组丢弃协议号 4，或源地址检查丢弃以 VIP 为源的应答。",
        },
        see: Text {
            en: "First: nothing arrives on the backend. Second: the answer leaves and the client does not see it.",
            zh: "前者：后端什么也收不到。后者：应答已发出，客户端收不到。",
        },
        mend: Text {
            en: "Allow protocol 4 in the security group; switch the source/destination check off; or use GUE.",
            zh: "安全组放行协议号 4；关闭源/目的地址检查；或改用 GUE。",
        },
    },
];
