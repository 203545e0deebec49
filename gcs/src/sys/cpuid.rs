//! CPUID, the instruction.

/// EAX, EBX, ECX and EDX of a leaf, subleaf 0. `None` on other processors than x86's.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // no longer unsafe in newer compilers
pub fn leaf(number: u32) -> Option<[u32; 4]> {
    // SAFETY: every x86-64 has the instruction, and it takes any number.
    let of = unsafe { std::arch::x86_64::__cpuid_count(number, 0) };
    Some([of.eax, of.ebx, of.ecx, of.edx])
}

#[cfg(not(target_arch = "x86_64"))]
pub fn leaf(_: u32) -> Option<[u32; 4]> {
    None
}
