//! What Landlock the kernel has. The domain itself is made inside the sandbox, by the init.

#![allow(unsafe_code)]

/// The version of the interface; 0 where the kernel has none, or where it was not switched on (landlock(7)).
pub fn version() -> u32 {
    // LANDLOCK_CREATE_RULESET_VERSION
    let ask = 1u32;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag landlock_create_ruleset(2) takes no attributes and makes nothing.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, ask) };
    u32::try_from(version).unwrap_or(0)
}
