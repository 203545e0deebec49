//! Kernel settings that differ from the kernel's own, each with its reason. The reference sets
//! none, so a row has to earn its place.

/// Path below `/proc/sys`, value, why.
static TABLE: &[(&str, &str, &str)] = &[(
    "kernel/printk_devkmsg",
    // The kernel takes the word only with a line feed.
    "on\n",
    "our lines in the kernel log would be dropped after ten in five seconds",
)];

/// Writes the table; a setting that the kernel lacks or has locked is logged.
pub fn apply() {
    for (name, value, why) in TABLE {
        if let Err(error) = std::fs::write(format!("/proc/sys/{name}"), value) {
            log::debug!(reason = *why; "{name} cannot be set to {value:?}: {error}");
        }
    }
}
