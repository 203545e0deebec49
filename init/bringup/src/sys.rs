//! The one instruction that has no safe form.
#![allow(unsafe_code, reason = "CPUID is unsafe in older compilers")]

/// EAX, EBX, ECX and EDX of a CPUID leaf, subleaf 0. `None` on other processors than x86's.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
pub fn cpuid(leaf: u32) -> Option<[u32; 4]> {
    // SAFETY: every x86-64 has the instruction, and it takes any number.
    let registers = unsafe { std::arch::x86_64::__cpuid_count(leaf, 0) };
    Some([registers.eax, registers.ebx, registers.ecx, registers.edx])
}

#[cfg(not(target_arch = "x86_64"))]
pub fn cpuid(_: u32) -> Option<[u32; 4]> {
    None
}
