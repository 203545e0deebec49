//! Kernel settings that differ from the kernel's own, each with its reason. The reference sets
//! none, so a row has to earn its place.

/// File, value, why.
static TABLE: &[(&str, &str, &str)] = &[
    (
        "/proc/sys/kernel/printk_devkmsg",
        // The kernel takes the word only with a line feed.
        "on\n",
        "our lines in the kernel log would be dropped after ten in five seconds",
    ),
    (
        "/sys/kernel/rcu_expedited",
        "1",
        "each move into a cgroup and each removal of a disk waits for a grace period, milliseconds \
         without this; its cost is an interrupt to each of a few processors",
    ),
];

/// Writes the table. A setting that the kernel lacks or has locked is logged.
///
/// # Errors
/// The first of those; the others were written all the same.
pub fn apply() -> Result<(), String> {
    let mut first = Ok(());
    for (path, value, why) in TABLE {
        if let Err(error) = std::fs::write(path, value) {
            let failure = format!("{path} cannot be set to {value:?}: {error}");
            log::debug!(reason = *why; "{failure}");
            first = first.and(Err(failure));
        }
    }
    first
}
