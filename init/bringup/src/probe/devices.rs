//! Devices: what VMBus offers and who drives it, disks and their controllers, clocks, adapters.

use serde::Serialize;

use super::tree::{Tree, CID};
use gcs::storage::scsi::CONTROLLERS;

const VMBUS: &str = "/sys/bus/vmbus/devices";
/// hv_sock connections are offers whose class is the port and this (hv_sock's service ids).
const HV_SOCK: &str = "-facb-11e6-bd58-64006a7986d3";

/// One class of VMBus devices.
pub struct Class {
    guid: &'static str,
    pub name: &'static str,
    /// Option whose driver takes it; none: the guest has no use for it.
    pub option: Option<&'static str>,
}

const fn class(guid: &'static str, name: &'static str, option: Option<&'static str>) -> Class {
    Class { guid, name, option }
}

/// As Hyper-V offers them (Linux: `include/linux/hyperv.h`).
#[rustfmt::skip]
const CLASSES: &[Class] = &[
    class("ba6163d9-04a1-4d29-b605-72e2ffb1dc7f", "SCSI controller", Some("CONFIG_HYPERV_STORAGE")),
    class("32412632-86cb-44a2-9b5c-50d1417354f5", "IDE controller", Some("CONFIG_HYPERV_STORAGE")),
    class("2f9bcc4a-0069-4af3-b76b-6fd0be528cda", "Fibre Channel adapter", Some("CONFIG_HYPERV_STORAGE")),
    class("f8615163-df3e-46c5-913f-f2d2f965ed0e", "network adapter", Some("CONFIG_HYPERV_NET")),
    class("44c4f61d-4444-4400-9d52-802e27ede19f", "PCI pass-through", Some("CONFIG_PCI_HYPERV")),
    class("525074dc-8985-46e2-8057-a307dc18a502", "dynamic memory (balloon)", Some("CONFIG_HYPERV_BALLOON")),
    class("57164f39-9115-4e78-ab55-382f3bd5422d", "heartbeat", Some("CONFIG_HYPERV_UTILS")),
    class("9527e630-d0ae-497b-adce-e80ab0175caf", "time synchronisation", Some("CONFIG_HYPERV_UTILS")),
    class("0e0b6031-5213-4934-818b-38d90ced39db", "shutdown", Some("CONFIG_HYPERV_UTILS")),
    class("a9a0f4e7-5a45-4d96-b827-8a841e8c03e6", "data exchange (KVP)", Some("CONFIG_HYPERV_UTILS")),
    class("35fa2e29-ea23-4236-96ae-3a6ebacba440", "backup (VSS)", Some("CONFIG_HYPERV_UTILS")),
    class("34d14be3-dee4-41c8-9ae7-6b174977c192", "file copy", None),
    class("cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a", "mouse", None),
    class("f912ad6d-2b17-48ea-bd65-f927a61c7684", "keyboard", None),
    class("da0a7802-e377-4aac-8e77-0558eb1073f8", "video", None),
    class("8c2eaf3d-32a7-4b09-ab99-bd1f1c86b501", "RDMA adapter", None),
    class("276aacf4-ac15-426c-98dd-7521ad3f01fe", "remote desktop", None),
    class("3375baf4-9e15-4b30-b765-67acb10d607b", "remote desktop", None),
    class("f8e65716-3cb3-4a06-9a60-1889c5cccab5", "activation", None),
];

pub fn class_of(guid: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.guid == guid)
}

#[derive(Debug, Serialize)]
pub struct VmbusDevice {
    pub class: String,
    pub driver: Option<String>,
    /// What the driver made of it: `host0`, `eth0`, a PCI bus.
    pub gives: Vec<String>,
    /// VMBus instance; the name of its directory in sysfs.
    pub id: String,
    pub class_id: String,
}

pub fn vmbus(tree: &dyn Tree) -> Vec<VmbusDevice> {
    let device = |id: String| {
        let at = format!("{VMBUS}/{id}");
        let class_id = tree.text(&format!("{at}/class_id")).unwrap_or_default();
        let class_id = class_id.trim_matches(['{', '}']).to_ascii_lowercase();
        let port = class_id.strip_suffix(HV_SOCK);
        let class = match (class_of(&class_id), port) {
            (Some(class), _) => class.name.to_owned(),
            (None, Some(port)) => {
                let port = u32::from_str_radix(port, 16).unwrap_or_default();
                format!("hv_sock connection, port {port}")
            }
            (None, None) => "unknown".to_owned(),
        };
        let names = tree.list(&at);
        let mut gives: Vec<String> = names
            .into_iter()
            .filter(|name| is_numbered(name, "host") || is_numbered(name, "pci"))
            .collect();
        gives.extend(tree.list(&format!("{at}/net")));
        VmbusDevice {
            class,
            class_id,
            driver: tree.link(&format!("{at}/driver")),
            gives,
            id,
        }
    };
    tree.list(VMBUS).into_iter().map(device).collect()
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[derive(Debug, Default, Serialize)]
pub struct Scsi {
    pub hosts: Vec<ScsiHost>,
    /// The host's controllers as the guest finds them: by their four VMBus instances where one of
    /// them is there, else by number.
    pub controllers: Vec<Controller>,
    pub disks: Vec<ScsiDisk>,
}

#[derive(Debug, Serialize)]
pub struct ScsiHost {
    pub name: String,
    pub driver: Option<String>,
    /// VMBus instance it belongs to.
    pub vmbus: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Controller {
    /// As requests name it.
    pub controller: usize,
    pub vmbus: Option<&'static str>,
    pub host: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct ScsiDisk {
    /// Host, channel, target and LUN.
    pub address: String,
    pub node: Option<String>,
    pub bytes: Option<u64>,
    pub vendor: Option<String>,
    pub model: Option<String>,
}

pub fn scsi(tree: &dyn Tree, vmbus: &[VmbusDevice]) -> Scsi {
    let mut scsi = Scsi::default();
    for name in tree.list("/sys/class/scsi_host") {
        let owner = vmbus.iter().find(|device| device.gives.contains(&name));
        scsi.hosts.push(ScsiHost {
            driver: tree.text(&format!("/sys/class/scsi_host/{name}/proc_name")),
            vmbus: owner.map(|device| device.id.clone()),
            name,
        });
    }
    let find = |guid: &str| vmbus.iter().find(|device| device.id == guid);
    let by_instance = CONTROLLERS.iter().any(|guid| find(guid).is_some());
    for (controller, guid) in CONTROLLERS.iter().enumerate() {
        let number = format!("host{controller}");
        let host = match by_instance {
            true => find(guid).and_then(|device| device.gives.first().cloned()),
            false => Some(number).filter(|name| scsi.hosts.iter().any(|host| host.name == *name)),
        };
        if host.is_some() || (by_instance && find(guid).is_some()) {
            let vmbus = by_instance.then_some(*guid);
            scsi.controllers.push(Controller {
                controller,
                vmbus,
                host,
            });
        }
    }
    for address in tree.list("/sys/bus/scsi/devices") {
        if address.split(':').count() != 4 {
            continue;
        }
        let at = format!("/sys/bus/scsi/devices/{address}");
        let node = tree.list(&format!("{at}/block")).into_iter().next();
        let size = node
            .as_ref()
            .and_then(|node| tree.text(&format!("/sys/class/block/{node}/size")));
        scsi.disks.push(ScsiDisk {
            node,
            bytes: sectors(size),
            vendor: tree.text(&format!("{at}/vendor")),
            model: tree.text(&format!("{at}/model")),
            address,
        });
    }
    scsi
}

/// Sectors of 512 bytes, whatever the disk's own are.
fn sectors(text: Option<String>) -> Option<u64> {
    text?.parse::<u64>().ok()?.checked_mul(512)
}

#[derive(Debug, Serialize)]
pub struct PtpClock {
    pub name: String,
    pub clock_name: String,
}

pub fn ptp(tree: &dyn Tree) -> Vec<PtpClock> {
    let clock = |name: String| PtpClock {
        clock_name: tree
            .text(&format!("/sys/class/ptp/{name}/clock_name"))
            .unwrap_or_default(),
        name,
    };
    tree.list("/sys/class/ptp").into_iter().map(clock).collect()
}

/// What carries vsock to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    HvSock,
    Virtio,
    None,
}

#[derive(Debug, Serialize)]
pub struct Vsock {
    pub transport: Transport,
    /// The own context id; Hyper-V gives none.
    pub cid: Option<u32>,
}

pub fn vsock(tree: &dyn Tree) -> Vsock {
    let drivers = tree.list("/sys/bus/vmbus/drivers");
    let virtio = tree.list("/sys/bus/virtio/drivers/vmw_vsock_virtio_transport");
    let transport = if drivers.iter().any(|name| name == "hv_sock") {
        Transport::HvSock
    } else if virtio.iter().any(|name| is_numbered(name, "virtio")) {
        Transport::Virtio
    } else {
        Transport::None
    };
    let cid = tree.text(CID).and_then(|text| text.parse().ok());
    Vsock {
        transport,
        cid: cid.filter(|cid| *cid != u32::MAX),
    }
}

#[derive(Debug, Serialize)]
pub struct Adapter {
    pub name: String,
    pub mac: String,
    pub driver: Option<String>,
    pub mtu: Option<String>,
    pub state: Option<String>,
    pub vmbus: Option<String>,
}

pub fn adapters(tree: &dyn Tree, vmbus: &[VmbusDevice]) -> Vec<Adapter> {
    let adapter = |name: String| {
        let file = |file: &str| tree.text(&format!("/sys/class/net/{name}/{file}"));
        let owner = vmbus.iter().find(|device| device.gives.contains(&name));
        Adapter {
            mac: file("address").unwrap_or_default(),
            driver: tree.link(&format!("/sys/class/net/{name}/device/driver")),
            mtu: file("mtu"),
            state: file("operstate"),
            vmbus: owner.map(|device| device.id.clone()),
            name,
        }
    };
    tree.list("/sys/class/net")
        .into_iter()
        .map(adapter)
        .collect()
}

#[derive(Debug, Serialize)]
pub struct Pmem {
    pub name: String,
    pub bytes: Option<u64>,
}

pub fn pmem(tree: &dyn Tree) -> Vec<Pmem> {
    let names = tree.list("/sys/class/block").into_iter();
    names
        .filter(|name| is_numbered(name, "pmem"))
        .map(|name| Pmem {
            bytes: sectors(tree.text(&format!("/sys/class/block/{name}/size"))),
            name,
        })
        .collect()
}
