//! Which CPUs a thread may run on (sched_setaffinity(2)).

use std::io;

/// The CPUs that the calling thread may use, in ascending order.
///
/// # Errors
/// The kernel's: EINVAL on a machine with more than 1024 CPUs.
pub fn usable_cpus() -> io::Result<Vec<u16>> {
    let mut set = empty();
    // SAFETY: `set` is a whole cpu_set_t, whose size the kernel is told; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CPU_ISSET reads within the set for numbers below CPU_SETSIZE.
    let is_usable = |cpu: &u16| unsafe { libc::CPU_ISSET(usize::from(*cpu), &set) };
    Ok((0..CPUS).filter(is_usable).collect())
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// EINVAL where the process may not use that CPU.
pub fn pin_to_cpu(cpu: u16) -> io::Result<()> {
    if cpu >= CPUS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut set = empty();
    // SAFETY: CPU_SET writes within the set for numbers below CPU_SETSIZE.
    unsafe { libc::CPU_SET(usize::from(cpu), &mut set) };
    // SAFETY: `set` is a whole cpu_set_t, whose size the kernel is told; 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Numbers that a set holds (`CPU_SETSIZE`).
const CPUS: u16 = 1024;

fn empty() -> libc::cpu_set_t {
    // SAFETY: cpu_set_t is an array of words, for which zero is the empty set.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let before = usable_cpus().unwrap();
        let last = *before.last().unwrap();
        std::thread::spawn(move || {
            pin_to_cpu(last).unwrap();
            assert_eq!(usable_cpus().unwrap(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(usable_cpus().unwrap(), before, "another thread's");
        let error = pin_to_cpu(CPUS - 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(pin_to_cpu(CPUS).is_err());
    }
}
