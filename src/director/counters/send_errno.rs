//! Why the kernel takes a packet not.

/// An error of the kernel's, as far as they are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SendErrno {
    /// ENOBUFS: the device's queue is full, or its driver takes nothing.
    NoBuffers,
    /// EAGAIN: the socket's buffer is full.
    Again,
    /// EMSGSIZE: longer than the way allows.
    MessageSize,
    /// ENETUNREACH: no route.
    NetworkUnreachable,
    /// EHOSTUNREACH: no answer from the next hop.
    HostUnreachable,
    /// EPERM: a rule of the host's firewall.
    NotPermitted,
    /// EINVAL
    Invalid,
    /// ENETDOWN: the device is down.
    NetworkDown,
    /// ENODEV: the device is gone.
    NoDevice,
    /// Any other one.
    Other,
}

impl SendErrno {
    /// Every one, in the order of the outputs.
    pub const ALL: [Self; 10] = [
        Self::NoBuffers,
        Self::Again,
        Self::MessageSize,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::NotPermitted,
        Self::Invalid,
        Self::NetworkDown,
        Self::NoDevice,
        Self::Other,
    ];

    /// The name in every output: that of errno(3).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBuffers => "ENOBUFS",
            Self::Again => "EAGAIN",
            Self::MessageSize => "EMSGSIZE",
            Self::NetworkUnreachable => "ENETUNREACH",
            Self::HostUnreachable => "EHOSTUNREACH",
            Self::NotPermitted => "EPERM",
            Self::Invalid => "EINVAL",
            Self::NetworkDown => "ENETDOWN",
            Self::NoDevice => "ENODEV",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_in_their_order() {
        for (number, errno) in SendErrno::ALL.into_iter().enumerate() {
            assert_eq!(errno as usize, number, "{}", errno.name());
        }
    }
}
