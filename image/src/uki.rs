//! A unified kernel image: one UEFI program that is a small loader (the *stub*), the kernel, its
//! command line and its initrd, each a section of the stub's PE file. The firmware starts the stub,
//! and the stub starts the kernel with the other two.
//!
//! The names of the sections are those of the UAPI group's specification, which `systemd-stub`
//! follows; where they lie in memory is free as long as they do not meet.

use crate::Error;

/// What goes into the image.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `linuxx64.efi.stub` of systemd.
    pub stub: &'a [u8],
    /// A bzImage with an EFI stub of its own.
    pub kernel: &'a [u8],
    pub initrd: &'a [u8],
    pub command_line: &'a str,
}

/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const READ_ONLY_DATA: u32 = 0x4000_0040;
/// Bytes of a section's header.
const ROW: usize = 40;
/// Sections begin on pages, whatever the stub's own alignment: kernel and initrd are used in place.
const PAGE: u32 = 4096;

/// Joins the parts.
///
/// # Errors
/// The stub is no PE program for x86-64 UEFI or has no room for more sections, the kernel is no
/// EFI program, or the whole does not fit into 4 GiB.
pub fn unify(parts: &Parts<'_>) -> Result<Vec<u8>, Error> {
    Headers::read(parts.kernel)
        .map_err(|why| wrong(format!("the kernel cannot be started by UEFI: {why}")))?;
    let headers = Headers::read(parts.stub).map_err(|why| wrong(format!("the stub: {why}")))?;
    let sections = [
        (".cmdline", parts.command_line.as_bytes()),
        (".linux", parts.kernel),
        (".initrd", parts.initrd),
    ];
    headers.append(parts.stub, &sections).map_err(wrong)
}

fn wrong(why: String) -> Error {
    Error::Archive(format!("cannot make a unified kernel image: {why}"))
}

/// Where the fields of a PE32+ file are that adding sections changes.
struct Headers {
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the first section's header.
    table: usize,
    sections: usize,
    file_alignment: u32,
}

impl Headers {
    fn read(file: &[u8]) -> Result<Self, String> {
        let short = || "it is cut short".to_owned();
        if !file.starts_with(b"MZ") {
            return Err("it is no PE program".into());
        }
        let pe = get_u32(file, 0x3c).ok_or_else(short)? as usize;
        let coff = pe.checked_add(4).ok_or_else(short)?;
        if file.get(pe..coff) != Some(b"PE\0\0") {
            return Err("it is no PE program".into());
        }
        let machine = get_u16(file, coff).ok_or_else(short)?;
        let sections = usize::from(get_u16(file, coff + 2).ok_or_else(short)?);
        let optional = coff + 20;
        let length = usize::from(get_u16(file, coff + 16).ok_or_else(short)?);
        let magic = get_u16(file, optional).ok_or_else(short)?;
        // IMAGE_SUBSYSTEM_EFI_APPLICATION
        let application = get_u16(file, optional + 68).ok_or_else(short)? == 10;
        if (machine, magic, application) != (0x8664, 0x20b, true) {
            return Err("it is no UEFI application for x86-64".into());
        }
        Ok(Self {
            coff,
            optional,
            table: optional + length,
            sections,
            file_alignment: get_u32(file, optional + 36).ok_or_else(short)?.max(512),
        })
    }

    fn append(&self, stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, String> {
        let large = || "it would be larger than 4 GiB".to_owned();
        let used = self.table + self.sections * ROW;
        let room = get_u32(stub, self.optional + 60).unwrap_or(0) as usize;
        if used + sections.len() * ROW > room || room > stub.len() {
            return Err("the stub has no room for more sections".into());
        }
        // After the stub's own sections there may be symbols, which nobody loads.
        let (mut file_end, mut memory_end) = (room as u32, 0_u32);
        for row in (self.table..used).step_by(ROW) {
            let field = |at| get_u32(stub, row + at).unwrap_or(0);
            let (memory, file) = (
                field(12).checked_add(field(8)),
                field(20).checked_add(field(16)),
            );
            memory_end = memory_end.max(memory.ok_or_else(large)?);
            file_end = file_end.max(file.ok_or_else(large)?);
        }
        let mut image = stub
            .get(..file_end as usize)
            .ok_or("the stub is cut short")?
            .to_vec();
        for (index, (name, bytes)) in sections.iter().enumerate() {
            let size = u32::try_from(bytes.len()).map_err(|_| large())?;
            let start = memory_end
                .checked_next_multiple_of(PAGE)
                .ok_or_else(large)?;
            memory_end = start.checked_add(size).ok_or_else(large)?;
            pad(&mut image, self.file_alignment as usize);
            let at = u32::try_from(image.len()).map_err(|_| large())?;
            image.extend_from_slice(bytes);
            pad(&mut image, self.file_alignment as usize);
            let stored = u32::try_from(image.len()).map_err(|_| large())? - at;

            let row = used + index * ROW;
            image[row..row + ROW].fill(0);
            image[row..row + name.len()].copy_from_slice(name.as_bytes());
            for (offset, value) in [
                (8, size),
                (12, start),
                (16, stored),
                (20, at),
                (36, READ_ONLY_DATA),
            ] {
                put_u32(&mut image, row + offset, value);
            }
        }
        let count = self.sections + sections.len();
        let count = u16::try_from(count).map_err(|_| "too many sections".to_owned())?;
        image[self.coff + 2..self.coff + 4].copy_from_slice(&count.to_le_bytes());
        let in_memory = memory_end
            .checked_next_multiple_of(PAGE)
            .ok_or_else(large)?;
        // Time, symbols and their number; then size in memory and checksum, which UEFI does not read.
        for (at, value) in [(self.coff + 4, 0), (self.coff + 8, 0), (self.coff + 12, 0)] {
            put_u32(&mut image, at, value);
        }
        put_u32(&mut image, self.optional + 56, in_memory);
        put_u32(&mut image, self.optional + 64, 0);
        Ok(image)
    }
}

/// The sections of a PE program: name, and content as long as it is in memory.
///
/// # Errors
/// It is no UEFI program for x86-64, or a section lies outside of the file.
pub fn sections(file: &[u8]) -> Result<Vec<(String, &[u8])>, Error> {
    let headers = Headers::read(file).map_err(wrong)?;
    let row = |index: usize| {
        let row = headers.table + index * ROW;
        let name = file.get(row..row + 8)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let (size, stored) = (get_u32(file, row + 8)?, get_u32(file, row + 16)?);
        let at = get_u32(file, row + 20)? as usize;
        let bytes = file.get(at..at.checked_add(size.min(stored) as usize)?)?;
        Some((String::from_utf8_lossy(name).into_owned(), bytes))
    };
    (0..headers.sections)
        .map(|index| row(index).ok_or_else(|| wrong("a section lies outside of the file".into())))
        .collect()
}

fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn get_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

/// Into headers that [`Headers::append`] has found to be inside.
fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn pad(bytes: &mut Vec<u8>, alignment: usize) {
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}
