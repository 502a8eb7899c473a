//! B10 to B18: the way back and source validation.

use super::{Entry, Severity};
use crate::doctor::finding::Code;
use crate::doctor::lang::Text;

/// In packet order.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        code: Code::backend(15),
        severity: Severity::Fatal,
        title: Text {
            en: "no route to the client",
            zh: "没有到客户端的路由",
        },
        happens: Text {
            en: "The client times out. With rp_filter on it looks just like row 10, so it is judged first.",
            zh: "客户端超时。rp_filter 打开时现象与第 10 行完全相同，因此先判断这一项。",
        },
        why: Text {
            en: "The answer finds no route; source validation finds none either.",
            zh: "应答找不到路由；源地址校验同样找不到。",
        },
        see: Text {
            en: "`ip route get CLIENT from VIP`; with rp_filter off `nstat -az IpOutNoRoutes`.",
            zh: "`ip route get CLIENT from VIP`；rp_filter 关闭时看 `nstat -az IpOutNoRoutes`。",
        },
        mend: Text {
            en: "Add the default route, or one to the clients.",
            zh: "添加默认路由或到客户端的路由。",
        },
    },
    Entry {
        code: Code::backend(17),
        severity: Severity::Fatal,
        title: Text {
            en: "no policy rule matches the VIP",
            zh: "策略路由规则没有匹配 VIP",
        },
        happens: Text {
            en: "The client times out, while the backend's own address reaches it.",
            zh: "客户端超时，而用后端自身地址可以通。",
        },
        why: Text {
            en: "Rules select a table by the backend's address; answers carry the VIP and fall to a table without a route.",
            zh: "规则按后端自身地址选表；应答的源地址是 VIP，落到了没有路由的表。",
        },
        see: Text {
            en: "`ip route get CLIENT from VIP` and without `from VIP` differ; `ip rule`.",
            zh: "`ip route get CLIENT from VIP` 与不带 `from VIP` 的结果不同；`ip rule`。",
        },
        mend: Text {
            en: "`ip rule add from VIP lookup TABLE`.",
            zh: "`ip rule add from VIP lookup TABLE`。",
        },
    },
    Entry {
        code: Code::backend(16),
        severity: Severity::Fatal,
        title: Text {
            en: "the way back leaves by the wrong device",
            zh: "回程从错误的设备出去",
        },
        happens: Text {
            en: "The client times out: the answer goes into the tunnel, stays on the machine or comes back to the director.",
            zh: "客户端超时：应答进入隧道、留在本机或回到 director。",
        },
        why: Text {
            en: "A route for the client's network names the tunnel device or lo, or has the director as its gateway.",
            zh: "到客户端网段的路由指向隧道设备或 lo，或以 director 为网关。",
        },
        see: Text {
            en: "`ip route get CLIENT from VIP`.",
            zh: "`ip route get CLIENT from VIP`。",
        },
        mend: Text {
            en: "Route clients by the physical device and a gateway that is not the director.",
            zh: "让到客户端的路由走物理网卡，网关不是 director。",
        },
    },
    Entry {
        code: Code::backend(18),
        severity: Severity::Fatal,
        title: Text {
            en: "the next hop does not answer",
            zh: "下一跳没有回应",
        },
        happens: Text {
            en: "The client times out; answers wait for a neighbour that never resolves.",
            zh: "客户端超时；应答在等待始终解析不了的邻居。",
        },
        why: Text {
            en: "The gateway is down, in another VLAN or its address is wrong.",
            zh: "网关宕机、在别的 VLAN，或地址写错。",
        },
        see: Text {
            en: "`ip neigh show GATEWAY` is FAILED or INCOMPLETE.",
            zh: "`ip neigh show GATEWAY` 为 FAILED 或 INCOMPLETE。",
        },
        mend: Text {
            en: "Fix the gateway's address, the cable or the VLAN.",
            zh: "修正网关地址、链路或 VLAN。",
        },
    },
    Entry {
        code: Code::backend(14),
        severity: Severity::Partial,
        title: Text {
            en: "the client is an address of the backend",
            zh: "客户端地址是后端自己的地址",
        },
        happens: Text {
            en: "Requests of this one client die without any counter.",
            zh: "只有这个客户端的请求被丢弃，且没有任何计数。",
        },
        why: Text {
            en: "The kernel takes no packet from outside whose source is its own, whatever rp_filter says.",
            zh: "内核不接受从外部进入而源地址是自己的包，与 rp_filter 无关。",
        },
        see: Text {
            en: "The drop reason is IP_LOCAL_SOURCE; `ip route get VIP from CLIENT iif T` is refused.",
            zh: "丢包原因为 IP_LOCAL_SOURCE；`ip route get VIP from CLIENT iif T` 被拒绝。",
        },
        mend: Text {
            en: "`sysctl -w net.ipv4.conf.T.accept_local=1`.",
            zh: "`sysctl -w net.ipv4.conf.T.accept_local=1`。",
        },
    },
    Entry {
        code: Code::backend(10),
        severity: Severity::Fatal,
        title: Text {
            en: "rp_filter is strict",
            zh: "rp_filter 为严格模式",
        },
        happens: Text {
            en: "The packet leaves the tunnel device and is dropped; the client times out.",
            zh: "包从隧道设备出来后即被丢弃，客户端超时。",
        },
        why: Text {
            en: "The larger one of all.rp_filter and T.rp_filter is 1, and the route to the client does not leave by the tunnel device, as it never does with direct server return.",
            zh: "all.rp_filter 与 T.rp_filter 中较大者为 1，而到客户端的路由不经过隧道设备——DSR 下总是如此。",
        },
        see: Text {
            en: "`nstat -az TcpExtIPReversePathFilter` grows; the drop reason is IP_RPFILTER; dmesg shows martians only with log_martians.",
            zh: "`nstat -az TcpExtIPReversePathFilter` 增长；丢包原因为 IP_RPFILTER；只有打开 log_martians 时 dmesg 才有 martian 日志。",
        },
        mend: Text {
            en: "net.ipv4.conf.T.rp_filter=0; where all.rp_filter is 1 that alone does not suffice: all.rp_filter=0 too.",
            zh: "net.ipv4.conf.T.rp_filter=0；若 all.rp_filter 为 1，仅此还不够，all.rp_filter 也要设为 0。",
        },
    },
    Entry {
        code: Code::backend(11),
        severity: Severity::Fatal,
        title: Text {
            en: "rp_filter is loose and the tunnel device has no address",
            zh: "rp_filter 为宽松模式而隧道设备没有地址",
        },
        happens: Text {
            en: "The packet leaves the tunnel device and is dropped, just as with strict rp_filter.",
            zh: "包从隧道设备出来后即被丢弃，与严格模式完全一样。",
        },
        why: Text {
            en: "Loose source validation (2, systemd's default) drops everything on a device without an IPv4 address.",
            zh: "宽松的源地址校验（2,systemd 的默认值）会丢弃没有 IPv4 地址的设备上的所有包。",
        },
        see: Text {
            en: "`nstat -az TcpExtIPReversePathFilter` grows although rp_filter is 2; `ip -4 addr show T` is empty.",
            zh: "rp_filter 为 2，`nstat -az TcpExtIPReversePathFilter` 仍在增长；`ip -4 addr show T` 为空。",
        },
        mend: Text {
            en: "Give the device any address: `ip addr add 127.0.0.42/32 dev T`; or set all.rp_filter and T.rp_filter to 0.",
            zh: "给设备任意一个地址：`ip addr add 127.0.0.42/32 dev T`；或把 all.rp_filter 和 T.rp_filter 都设为 0。",
        },
    },
    Entry {
        code: Code::backend(12),
        severity: Severity::Intermittent,
        title: Text {
            en: "rp_filter's mend will be undone",
            zh: "rp_filter 的修复会被还原",
        },
        happens: Text {
            en: "It works now and fails after a boot or when the tunnel device is made anew.",
            zh: "现在正常，重启或重建隧道设备后失效。",
        },
        why: Text {
            en: "`default` is copied when a device is made, and sysctl.d files (systemd ships `*.rp_filter = 2`) are applied again. `tunlb decap --setup` keeps its device right as long as it runs; without `--setup` its device is a new one at each start.",
            zh: "`default` 在创建设备时被复制，sysctl.d 中的文件（systemd 自带 `*.rp_filter = 2`）会再次生效。`tunlb decap --setup` 在运行期间会保持其设备的设置；不带 `--setup` 时，每次启动都是新设备。",
        },
        see: Text {
            en: "`systemd-analyze cat-config sysctl.d`.",
            zh: "`systemd-analyze cat-config sysctl.d`。",
        },
        mend: Text {
            en: "A late file that names the device: /etc/sysctl.d/99-tunlb.conf; of `tunlb decap`, `--setup`.",
            zh: "用排序靠后且写明设备名的文件：/etc/sysctl.d/99-tunlb.conf；对 `tunlb decap` 则使用 `--setup`。",
        },
    },
    Entry {
        code: Code::backend(13),
        severity: Severity::Fatal,
        title: Text {
            en: "the firewall checks the reverse path itself",
            zh: "防火墙自己做反向路径检查",
        },
        happens: Text {
            en: "The client times out although rp_filter is off.",
            zh: "rp_filter 已关闭，客户端仍超时。",
        },
        why: Text {
            en: "A rule such as nft `fib saddr . iif oif missing drop` or iptables `-m rpfilter --invert` (firewalld has one by default) drops what comes by the tunnel.",
            zh: "nft 的 `fib saddr . iif oif missing drop` 或 iptables 的 `-m rpfilter --invert`（firewalld 默认就有）丢弃了从隧道进来的包。",
        },
        see: Text {
            en: "The drop reason is NETFILTER_DROP; the rule's counter.",
            zh: "丢包原因为 NETFILTER_DROP；看规则计数器。",
        },
        mend: Text {
            en: "Accept the tunnel device before that rule.",
            zh: "在该规则之前放行隧道设备。",
        },
    },
];
