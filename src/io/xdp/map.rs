//! Maps of a loaded object, by name; and the device that a program is for.

use aya::Ebpf;
use aya::maps::{Map, MapError};

use super::{AttachError, LoadError};
use crate::io::netlink::{Link, Netlink, NetlinkError};

/// Why a program does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum MapFailure {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map cannot be used.
    #[error("BPF map {map}: {cause}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What aya says.
        cause: Box<MapError>,
    },
    /// The device cannot be looked up.
    #[error("interface {device}: {cause}")]
    Netlink {
        /// The device.
        device: String,
        /// What netlink says.
        cause: NetlinkError,
    },
}

/// A map of an object, as `read` takes it.
pub(super) fn map<M>(
    object: &mut Ebpf,
    name: &'static str,
    read: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, MapFailure> {
    let map = object.take_map(name);
    let map = map.ok_or_else(|| LoadError::Lacks(format!("map {name}")))?;
    read(map).map_err(|cause| map_error(name, cause))
}

pub(super) fn map_error(map: &'static str, cause: MapError) -> MapFailure {
    MapFailure::Map {
        map,
        cause: Box::new(cause),
    }
}

/// The device of that name.
pub(super) fn device(name: &str) -> Result<Link, MapFailure> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
    let link = link.map_err(|cause| MapFailure::Netlink {
        device: name.to_owned(),
        cause,
    })?;
    Ok(link.ok_or_else(|| AttachError::NoDevice(name.to_owned()))?)
}
