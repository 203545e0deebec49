//! The VM's network: all its adapters on one LAN with QEMU's user-mode network, which has the
//! host at `10.0.2.2` and `fec0::2` and a name server at `10.0.2.3`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The host, as the guest sees it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The first address that the network leases itself; forwarded ports lead there.
const FIRST: u8 = 15;

/// One adapter, by its number from 0 on; below 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nic(u8);

impl Nic {
    pub fn new(number: u8) -> Self {
        Self(number)
    }

    pub fn number(self) -> u8 {
        self.0
    }

    pub fn mac(self) -> String {
        format!("52:54:00:00:00:{:02x}", self.0)
    }

    /// `ID` on the wire: that of a VMBus instance on Hyper-V.
    pub fn id(self) -> String {
        format!("7d2f8c3e-6a0b-4b8f-8a51-5254000000{:02x}", self.0)
    }

    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 2, FIRST + self.0)
    }

    pub fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, (FIRST + self.0).into())
    }
}
