//! Modules of a packaged kernel: the order, what is left out, what is refused. The kernel is a
//! made-up one, whose modules are compiled here and have only what a module says about itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::modules::{choose, Choice};
use tempfile::TempDir;

struct Kernel(TempDir);

impl Kernel {
    /// `built_in`: lines of modules.builtin.
    fn new(built_in: &str) -> Self {
        let kernel = Self(TempDir::new().unwrap());
        fs::write(kernel.0.path().join("modules.builtin"), built_in).unwrap();
        kernel
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Writes a module with these facts (`depends=a,b`), packed as its name says.
    fn module(&self, name: &str, facts: &[&str]) {
        let dir = TempDir::new().unwrap();
        let (source, object) = (dir.path().join("m.c"), dir.path().join("m.o"));
        let facts: String = facts.iter().map(|fact| format!("{fact}\\0")).collect();
        let code = format!(
            "__attribute__((section(\".modinfo\"), used)) static const char m[] = \"license=GPL\\0{facts}\";\n"
        );
        fs::write(&source, code).unwrap();
        let done = Command::new("cc")
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        let bytes = fs::read(&object).unwrap();
        let packed = match Path::new(name).extension().unwrap().to_str().unwrap() {
            "xz" => {
                let mut packed = Vec::new();
                lzma_rs::xz_compress(&mut bytes.as_slice(), &mut packed).unwrap();
                packed
            }
            "zst" => zstd::encode_all(bytes.as_slice(), 1).unwrap(),
            "gz" => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&bytes).unwrap();
                encoder.finish().unwrap()
            }
            _ => bytes,
        };
        fs::write(self.path(name), packed).unwrap();
    }

    fn choose(&self, list: &str) -> Result<Choice, String> {
        choose(self.0.path(), list).map_err(|error| error.to_string())
    }
}

fn names(choice: &Choice) -> Vec<&str> {
    choice
        .modules
        .iter()
        .map(|module| module.name.as_str())
        .collect()
}

#[test]
fn each_module_comes_after_what_it_depends_on_however_it_is_packed() {
    let kernel = Kernel::new("kernel/fs/fuse/fuse.ko\nkernel/lib/lib-crc.ko\n");
    kernel.module("kernel/drivers/hv/hv_vmbus.ko.xz", &[]);
    kernel.module(
        "kernel/net/hv_sock.ko.zst",
        &["depends=vsock,hv_vmbus", "name=hv_sock"],
    );
    kernel.module("kernel/net/vsock.ko.gz", &["depends="]);
    // Names are written in both ways; a soft dependency counts where it is there.
    kernel.module(
        "kernel/fs/ext4.ko",
        &[
            "depends=mb-cache,lib_crc",
            "softdep=pre: crc32c no-such post: vsock",
        ],
    );
    kernel.module("kernel/fs/mb_cache.ko", &[]);
    kernel.module("kernel/crypto/crc32c.ko", &[]);
    kernel.module("kernel/sound/noise.ko", &[]);
    let list = "# words\n\nmust hv-sock the bridge\nmust hv_vmbus devices\nwant fuse mounts\nwant xfs disks of cheese\nmust ext4 layers\n";
    let choice = kernel.choose(list).unwrap();
    assert_eq!(
        names(&choice),
        ["vsock", "hv_vmbus", "hv_sock", "mb_cache", "crc32c", "ext4"]
    );
    assert_eq!(choice.built_in, ["fuse"]);
    assert_eq!(
        choice.missing,
        [("xfs".to_owned(), "disks of cheese".to_owned())]
    );
    assert!(choice
        .modules
        .iter()
        .all(|module| module.bytes.starts_with(b"\x7fELF")));
}

#[test]
fn what_cannot_be_loaded_is_refused_by_name() {
    let kernel = Kernel::new("");
    kernel.module("a.ko", &["depends=gone"]);
    fs::write(kernel.path("b.ko"), "no module").unwrap();
    fs::write(kernel.path("c.ko.xz"), "no xz").unwrap();
    kernel.module("d.ko", &["depends=e"]);
    kernel.module("e.ko", &["depends=d"]);
    for (list, said) in [
        (
            "must ext4 layers\n",
            "the kernel has no ext4, as a module or built in: layers",
        ),
        ("must a x\n", "gone, on which another depends"),
        ("want b x\n", "b.ko: it is no module"),
        ("want c x\n", "c.ko.xz cannot be unpacked"),
        ("ext4 layers\n", "line 1 of the list"),
        ("must ext4\n", "line 1 of the list"),
    ] {
        let error = kernel.choose(list).unwrap_err();
        assert!(error.contains(said), "{list:?}: {error}");
    }
    // Two that need each other cannot be loaded by anybody; here they just end.
    assert_eq!(names(&kernel.choose("must d x\n").unwrap()), ["e", "d"]);
    let nowhere = choose(Path::new("/nowhere"), "").unwrap_err().to_string();
    assert!(nowhere.contains("/nowhere/modules.builtin"), "{nowhere}");
}

/// The list that ships is read to its end, and a kernel that has everything built in needs no module.
#[test]
fn the_shipped_list_is_sound() {
    let list = include_str!("../profiles/stock.modules");
    let all: Vec<&str> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    let built_in: String = all
        .iter()
        .map(|name| format!("kernel/{name}.ko\n"))
        .collect();
    let choice = Kernel::new(&built_in).choose(list).unwrap();
    assert_eq!(choice.built_in, all);
    // Where both are there, Hyper-V's transport has to come first: the second one finds the place taken.
    let at = |name| all.iter().position(|other| *other == name).unwrap();
    assert!(at("hv_sock") < at("vmw_vsock_virtio_transport"));
}
