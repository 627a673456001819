//! What a file lies on.

use std::fs::File;

/// Returns whether a file lies on another machine, by the file system's magic number.
///
/// Such files should not be mapped: what another machine does to one can kill a process that has it
/// mapped.
#[cfg(target_os = "linux")]
pub(crate) fn is_remote(file: &File) -> bool {
    const REMOTE: [u32; 9] = [
        0x0000_6969, // NFS
        0x0000_517B, // SMB
        0xFF53_4D42, // CIFS
        0xFE53_4D42, // SMB2
        0x6573_5546, // FUSE
        0x0102_1997, // 9P
        0x0BD0_0BD0, // Lustre
        0x00C3_6400, // Ceph
        0x4750_4653, // GPFS
    ];
    // The width and sign of the field differ between machines; the number is 32 bits.
    rustix::fs::fstatfs(file).is_ok_and(|fs| {
        let magic = i128::from(fs.f_type) & i128::from(u32::MAX);
        REMOTE.iter().any(|&remote| i128::from(remote) == magic)
    })
}

/// Returns whether a file lies on another machine: its file system is not marked as local.
#[cfg(target_vendor = "apple")]
pub(crate) fn is_remote(file: &File) -> bool {
    const LOCAL: u32 = 0x1000; // MNT_LOCAL
    rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_flags & LOCAL == 0)
}
