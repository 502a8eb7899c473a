//! Rows 30 and 32, beyond whether a socket is there: does it take the client's packets, and is the program behind it
//! awake?

use super::case::Case;
use super::outcome::Outcome;
use super::service::{address_text, program};
use crate::doctor::facts::Socket;
use crate::doctor::lang::say;
use crate::doctor::lines::command;

/// What keeps a listening socket from answering this client; none where nothing does.
pub(super) fn judge(case: &Case<'_>, serving: &[&Socket]) -> Option<Outcome> {
    let client = case.target.client;
    let socket = serving.first()?;
    let name = program(socket);
    if socket.signed_peers.iter().any(|net| net.contains(&client)) {
        return Some(
            Outcome::fail(say!(
                case.lang,
                "{name} takes segments of {client} only if they are signed (TCP-MD5): the kernel drops the others",
                "{name} 只接受 {client} 经 TCP-MD5 签名的报文段：其余的被内核丢弃"
            ))
            .fix(say!(
                case.lang,
                "# in the configuration of {name}: remove the password of the peer {client}, or set it there, too",
                "# 在 {name} 的配置中：去掉对端 {client} 的密码，或在对端也设置它"
            )),
        );
    }
    if let Some(device) = socket
        .device
        .as_ref()
        .filter(|device| Some(*device) == case.target.tunnel.as_ref())
    {
        return Some(Outcome::unknown(say!(
            case.lang,
            "{name} is bound to {device} (SO_BINDTODEVICE): its answers leave by {device}, too, and what becomes of \
             them there is not known",
            "{name} 绑定在 {device} 上（SO_BINDTODEVICE）：它的应答也从 {device} 出去，其后的去向无法得知"
        )));
    }
    let counter = "TcpExtTCPMinTTLDrop";
    let dropped = case
        .counter(counter)
        .filter(|count| *count > 0 && socket.protocol == "tcp")?;
    let outcome = Outcome::warn(say!(
        case.lang,
        "a socket of this machine takes only packets from nearby (IP_MINTTL): {dropped} segments were dropped for their TTL",
        "本机有套接字只接受近处的包（IP_MINTTL）：已有 {dropped} 个报文段因 TTL 被丢弃"
    ));
    Some(outcome.evidence(counter, dropped))
}

/// Bytes of memory that a small datagram takes.
const DATAGRAM_BYTES: u32 = 2304;

/// Why a socket hears nothing more.
enum Deaf {
    Stopped,
    Full { queued: u32, limit: u32 },
}

fn deaf(socket: &Socket) -> Option<Deaf> {
    if socket.stopped {
        return Some(Deaf::Stopped);
    }
    if socket.protocol == "udp" {
        let (limit, queued) = socket.memory?;
        let is_full = queued > 0 && queued.saturating_add(DATAGRAM_BYTES) > limit;
        return is_full.then_some(Deaf::Full { queued, limit });
    }
    let (queued, limit) = (socket.queued, socket.queue_limit);
    (limit > 0 && queued > limit).then_some(Deaf::Full { queued, limit })
}

/// Whether the program behind the service takes what comes; none where it does.
pub(super) fn program_sleeps(case: &Case<'_>, serving: &[&Socket]) -> Option<Outcome> {
    let asleep: Vec<_> = serving
        .iter()
        .filter_map(|socket| Some((*socket, deaf(socket)?)))
        .collect();
    let Some((socket, why)) = asleep.first() else {
        return waits(case, serving);
    };
    let (name, all, count) = (program(socket), serving.len(), asleep.len());
    let (text, outcome): (String, fn(String) -> Outcome) = match why {
        Deaf::Stopped => (
            say!(
                case.lang,
                "{name} is stopped (SIGSTOP or a debugger): what comes waits",
                "{name} 已被停住（SIGSTOP 或调试器）：到来的请求只能等待"
            ),
            Outcome::fail,
        ),
        Deaf::Full { queued, limit } if socket.protocol == "udp" => (
            say!(
                case.lang,
                "the receive buffer of {name} is full ({queued} of {limit} bytes): further datagrams are dropped",
                "{name} 的接收缓冲区已满（{queued}／{limit} 字节）：新的数据报被丢弃"
            ),
            Outcome::fail,
        ),
        Deaf::Full { queued, limit } => (
            say!(
                case.lang,
                "the accept queue of {name} is full ({queued} wait, limit {limit}): new connections are dropped",
                "{name} 的 accept 队列已满（等待 {queued}，上限 {limit}）：新连接被丢弃"
            ),
            Outcome::fail,
        ),
    };
    let outcome = if count < all {
        let (lang, rest) = (case.lang, all - count);
        Outcome::warn(say!(
            lang,
            "{text}; so it is with {count} of {all} sockets of the service, and {rest} go on",
            "{text}；该服务的 {all} 个套接字中有 {count} 个如此，其余 {rest} 个正常"
        ))
    } else {
        outcome(text)
    };
    Some(advised(case, outcome, socket, why))
}

fn advised(case: &Case<'_>, outcome: Outcome, socket: &Socket, why: &Deaf) -> Outcome {
    let outcome = outcome.evidence(address_text(socket), program(socket));
    let flag = if socket.protocol == "udp" { "u" } else { "t" };
    let verify = command![
        "ss",
        format!("-{flag}lnp"),
        "sport",
        "=",
        format!(":{}", socket.port)
    ];
    match why {
        Deaf::Stopped => outcome.fix(say!(
            case.lang,
            "# continue the program (kill -CONT), or restart it",
            "# 让程序继续运行（kill -CONT），或重启它"
        )),
        Deaf::Full { queued, limit } if socket.protocol == "tcp" => outcome
            .evidence("Recv-Q", queued)
            .evidence("Send-Q", limit)
            .fix("sysctl -w net.core.somaxconn=4096")
            .fix(say!(
                case.lang,
                "# give listen() a larger backlog, restart the service, and find out why it does not accept",
                "# 加大 listen() 的 backlog 并重启服务，查明它为什么不及时 accept"
            ))
            .persist("# /etc/sysctl.d/99-tunlb.conf\nnet.core.somaxconn = 4096"),
        Deaf::Full { .. } => outcome.fix(say!(
            case.lang,
            "# restart the service, and find out why it does not read",
            "# 重启服务，查明它为什么不读取数据"
        )),
    }
    .verify(verify)
}

/// What has waited for a while.
fn waits(case: &Case<'_>, serving: &[&Socket]) -> Option<Outcome> {
    let socket = serving.iter().find(|socket| socket.queued > 0)?;
    let (name, queued) = (program(socket), socket.queued);
    let outcome = if socket.protocol == "udp" {
        Outcome::warn(say!(
            case.lang,
            "{queued} bytes have waited for {name} for a tenth of a second: it is slow, or hangs",
            "有 {queued} 字节的数据报等待 {name} 读取已超过十分之一秒：它很慢或已卡住"
        ))
    } else {
        Outcome::warn(say!(
            case.lang,
            "{queued} connections have waited for {name} to accept them for a tenth of a second: it is slow, or hangs",
            "有 {queued} 个连接等待 {name} 接受已超过十分之一秒：它很慢或已卡住"
        ))
    };
    Some(
        outcome
            .evidence("Recv-Q", queued)
            .evidence(address_text(socket), name),
    )
}
