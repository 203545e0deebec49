//! Images in all their forms.

use super::super::{default_image, load, Image};
use super::*;

fn layers() -> Vec<(Vec<u8>, Vec<u8>)> {
    let base = Tar::default()
        .file("base", b"bottom")
        .file("both", b"old")
        .end();
    let middle = Tar::default().file("both", b"new").end();
    let top = Tar::default().file(".wh.base", b"").end();
    vec![
        (gzip(&base), base),
        (zstd::encode_all(&middle[..], 3).unwrap(), middle),
        (top.clone(), top),
    ]
}

fn config() -> Value {
    json!({"Entrypoint": ["/bin/app"], "Cmd": null, "Env": ["A=1"], "WorkingDir": "/srv", "User": "www:33", "Labels": {"x": "y"}})
}

fn check(image: &Image) {
    assert_eq!(image.layers.len(), 3);
    assert_eq!(cat(&image.layers[0], "/both"), "old");
    assert_eq!(cat(&image.layers[1], "/both"), "new");
    assert_eq!(stat(&image.layers[2], "/base"), "character 0000 0:0 1");
    let config = &image.config;
    assert_eq!(config.entrypoint, ["/bin/app"]);
    assert_eq!(config.cmd, [""; 0]);
    assert_eq!(config.env, ["A=1"]);
    assert_eq!((&config.cwd[..], &config.user[..]), ("/srv", "www:33"));
}

#[test]
fn an_oci_layout_and_its_archives_give_the_same_disks() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let files = oci_files(&layers(), config(), Some("amd64"));
    let packed = archive(&files);
    let forms = [
        layout(&bench, "layout", &files),
        bench.put("image.tar", &packed),
        bench.put("image.tar.gz", &gzip(&packed)),
        bench.put("image.tar.zst", &zstd::encode_all(&packed[..], 1).unwrap()),
    ];
    let images: Vec<_> = forms
        .iter()
        .map(|form| load(form, &bench.cache).unwrap())
        .collect();
    check(&images[0]);
    for image in &images {
        assert_eq!(
            image.layers, images[0].layers,
            "the key is the diff id alone"
        );
    }
}

#[test]
fn docker_save_archives_old_and_new() {
    if !have_tools() {
        return;
    }
    let parts = layers();
    let diff_ids: Vec<_> = parts
        .iter()
        .map(|(_, plain)| Digest::of(plain).to_string())
        .collect();
    let config_bytes = json!({"os": "linux", "architecture": "amd64", "config": config(), "rootfs": {"diff_ids": diff_ids}})
        .to_string()
        .into_bytes();
    let hex = Digest::of(&config_bytes).hex();
    let bench = Bench::new();

    let manifest = |config: &str, layers: &[String]| {
        json!([{"Config": config, "RepoTags": ["app:latest"], "Layers": layers}])
            .to_string()
            .into_bytes()
    };
    let names: Vec<_> = (0..3).map(|i| format!("{i}{i}/layer.tar")).collect();
    let old = Tar::default()
        .file(&names[0], &parts[0].1)
        .file("real/layer.tar", &parts[1].1)
        .add(Entry {
            path: b"11/layer.tar",
            kind: tar::EntryType::Symlink,
            link: b"../real/layer.tar",
            ..Entry::default()
        })
        .file(&names[2], &parts[2].1)
        .file(&format!("{hex}.json"), &config_bytes)
        .file("manifest.json", &manifest(&format!("{hex}.json"), &names));
    check(&load(&bench.put("old.tar", &old.end()), &bench.cache).unwrap());

    let names: Vec<_> = parts
        .iter()
        .map(|(_, plain)| format!("blobs/sha256/{}", Digest::of(plain).hex()))
        .collect();
    let mut new = Tar::default().file(
        "manifest.json",
        &manifest(&format!("blobs/sha256/{hex}"), &names),
    );
    for (name, (_, plain)) in names.iter().zip(&parts) {
        new = new.file(name, plain);
    }
    let new = new.file(&format!("blobs/sha256/{hex}"), &config_bytes);
    check(&load(&bench.put("new.tar", &new.end()), &bench.cache).unwrap());
}

#[test]
fn a_root_file_system_as_directory_and_as_tar() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    bench.put("root/bin/sh", b"#!");
    bench.put("root/.wh.plain", b"a plain file");
    std::os::unix::fs::symlink("bin/sh", bench.path("root/sh")).unwrap();
    std::fs::hard_link(bench.path("root/bin/sh"), bench.path("root/bin/bash")).unwrap();
    let image = load(&bench.path("root"), &bench.cache).unwrap();
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    assert_eq!(cat(&image.layers[0], "/bin/bash"), "#!");
    assert_eq!(cat(&image.layers[0], "/.wh.plain"), "a plain file");
    assert!(stat(&image.layers[0], "/bin/sh").ends_with(" 2"));
    assert_eq!(
        load(&bench.path("root"), &bench.cache).unwrap().layers,
        image.layers
    );
    bench.put("root/bin/more", b"changed");
    assert_ne!(
        load(&bench.path("root"), &bench.cache).unwrap().layers,
        image.layers
    );

    let tar = Tar::default()
        .file("./bin/sh", b"#!")
        .file("./.wh.plain", b"p")
        .end();
    let plain = load(&bench.put("r.tar", &tar), &bench.cache).unwrap();
    let zipped = load(&bench.put("r.tgz", &gzip(&tar)), &bench.cache).unwrap();
    for image in [plain, zipped] {
        assert_eq!(cat(&image.layers[0], "/bin/sh"), "#!");
        assert_eq!(cat(&image.layers[0], "/.wh.plain"), "p");
    }
}

#[test]
fn the_default_image_has_busybox_and_a_command() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let image = match default_image(&bench.cache) {
        Ok(image) => image,
        Err(e) if e.to_string().contains("is not installed") => return eprintln!("SKIPPED: {e}"),
        Err(e) => panic!("{e}"),
    };
    assert_eq!(image.config.cmd, ["/bin/show"]);
    assert_eq!(stat(&image.layers[0], "/bin/busybox"), "regular 0755 0:0 1");
    assert_eq!(stat(&image.layers[0], "/bin/show"), "regular 0755 0:0 1");
    assert_eq!(stat(&image.layers[0], "/bin/sh"), "symlink 0777 0:0 1");
    assert!(cat(&image.layers[0], "/etc/passwd").starts_with("root:x:0:0:"));
}

#[test]
fn broken_images_are_named() {
    if !have_tools() {
        return;
    }
    let bench = Bench::new();
    let files = oci_files(&layers(), config(), None);
    let change = |at: usize, bytes: Option<&[u8]>| {
        let mut files = files.clone();
        match bytes {
            Some(bytes) => files[at].1 = bytes.to_vec(),
            None => drop(files.remove(at)),
        }
        archive(&files)
    };
    let mut flipped = files[3].1.clone();
    flipped[600] ^= 1;
    let two = json!([{"Config": "a", "RepoTags": ["one:1"], "Layers": []}, {"Config": "b", "RepoTags": ["two:2"], "Layers": []}]);
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "cut.tar",
            change(1, Some(&files[1].1[..100])),
            &["layer 1 of 3", "cut.tar", "100 bytes"],
        ),
        ("gone.tar", change(2, None), &["layer 2 of 3", "missing"]),
        (
            "flip.tar",
            change(3, Some(&flipped)),
            &["layer 3 of 3", "corrupt"],
        ),
        (
            "config.tar",
            change(4, Some(b"{}")),
            &["config.tar", "digest is"],
        ),
        (
            "index.tar",
            change(6, Some(b"{")),
            &["index.tar", "index.json", "corrupt"],
        ),
        (
            "two.tar",
            Tar::default()
                .file("manifest.json", two.to_string().as_bytes())
                .end(),
            &["2 images", "one:1, two:2"],
        ),
        (
            "text",
            b"just a text that is no archive".repeat(40),
            &["text", "neither"],
        ),
        ("empty", Vec::new(), &["nothing in it"]),
        (
            "arm.tar",
            archive(&oci_files(&layers(), config(), Some("arm64"))),
            &["no image for linux/amd64"],
        ),
        (
            "x.tar.xz",
            b"\xfd7zXZ\0 and more".to_vec(),
            &["xz", "gzip, zstd"],
        ),
    ];
    for (name, bytes, parts) in cases {
        let error = load(&bench.put(name, &bytes), &bench.cache)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{name}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n'), "{error:?}");
    }
    let missing = load(&bench.path("nowhere"), &bench.cache)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("nowhere") && missing.contains("no such file"),
        "{missing}"
    );
}
