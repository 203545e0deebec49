//! Images in all their forms.

use super::super::{default_image, Image};
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
    let config = &image.config;
    assert_eq!(config.entrypoint, ["/bin/app"]);
    assert_eq!(config.cmd, [""; 0]);
    assert_eq!(config.env, ["A=1"]);
    assert_eq!((&config.cwd[..], &config.user[..]), ("/srv", "www:33"));
    if can_see() {
        let seen = Seen::of(&image.layers);
        assert_eq!(seen.paths(), ["", "both"]);
        assert_eq!(seen.text("both"), "new");
        // A layer alone: a device 0:0 is what overlayfs reads.
        assert_eq!(Seen::of(&image.layers[2..]).stat("base"), "c 0 0:0");
        assert_eq!(Seen::of(&image.layers[..1]).text("both"), "old");
    }
}

#[test]
fn an_oci_layout_and_its_archives_give_the_same_disks() {
    let bench = Bench::new();
    let files = oci_files(&layers(), config(), Some("amd64"));
    let packed = archive(&files);
    let forms = [
        layout(&bench, "layout", &files),
        bench.put("image.tar", &packed),
        bench.put("image.tar.gz", &gzip(&packed)),
        bench.put("image.tar.zst", &zstd::encode_all(&packed[..], 1).unwrap()),
    ];
    let images: Vec<_> = forms.iter().map(|form| bench.load(form).unwrap()).collect();
    check(&images[0]);
    for image in &images {
        assert_eq!(
            image.layers, images[0].layers,
            "the key is the chain of diff ids"
        );
    }
}

#[test]
fn docker_save_archives_old_and_new() {
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
    check(&bench.load(&bench.put("old.tar", &old.end())).unwrap());

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
    check(&bench.load(&bench.put("new.tar", &new.end())).unwrap());
}

#[test]
fn a_root_file_system_as_directory_and_as_tar() {
    let bench = Bench::new();
    bench.put("root/bin/sh", b"#!");
    bench.put("root/.wh.plain", b"a plain file");
    std::os::unix::fs::symlink("bin/sh", bench.path("root/sh")).unwrap();
    std::fs::hard_link(bench.path("root/bin/sh"), bench.path("root/bin/bash")).unwrap();
    let image = bench.load(&bench.path("root")).unwrap();
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    let again = bench.load(&bench.path("root")).unwrap();
    assert_eq!(again.layers, image.layers);
    bench.put("root/bin/more", b"changed");
    let changed = bench.load(&bench.path("root")).unwrap();
    assert_ne!(changed.layers, image.layers);

    let tar = Tar::default()
        .file("./bin/sh", b"#!")
        .file("./.wh.plain", b"p")
        .end();
    let packed = bench.load(&bench.put("r.tar", &tar)).unwrap();
    let zipped = bench.load(&bench.put("r.tgz", &gzip(&tar))).unwrap();
    if !can_see() {
        return;
    }
    let seen = Seen::of(&image.layers);
    assert_eq!(seen.text("bin/bash"), "#!");
    assert_eq!(
        seen.stat("bin/sh").chars().next(),
        Some('h'),
        "one file with two names"
    );
    assert_eq!(seen.text(".wh.plain"), "a plain file");
    assert_eq!(seen.target("sh"), "bin/sh");
    for image in [packed, zipped] {
        let seen = Seen::of(&image.layers);
        assert_eq!(seen.text("bin/sh") + &seen.text(".wh.plain"), "#!p");
    }
}

#[test]
fn the_default_image_has_busybox_and_a_command() {
    let bench = Bench::new();
    let image = match default_image(&bench.cache) {
        Ok(image) => image,
        Err(e) if e.to_string().contains("is not installed") => return eprintln!("SKIPPED: {e}"),
        Err(e) => panic!("{e}"),
    };
    assert_eq!(image.config.cmd, ["/bin/show"]);
    if can_see() {
        let seen = Seen::of(&image.layers);
        assert_eq!(seen.stat("bin/busybox"), "f 755 0:0");
        assert_eq!(seen.stat("bin/show"), "f 755 0:0");
        assert_eq!(seen.target("bin/sh"), "../bin/busybox");
        assert!(seen.text("etc/passwd").starts_with("root:x:0:0:"));
    }
}

#[test]
fn broken_images_are_named() {
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
            &[
                "arm.tar",
                "no manifest for linux/amd64",
                "the image has: linux/arm64",
            ],
        ),
        (
            "x.tar.xz",
            b"\xfd7zXZ\0 and more".to_vec(),
            &["xz", "gzip, zstd"],
        ),
    ];
    for (name, bytes, parts) in cases {
        let error = bench
            .load(&bench.put(name, &bytes))
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{name}: {error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n'), "{error:?}");
    }
    let missing = bench.load(&bench.path("nowhere")).unwrap_err().to_string();
    assert!(
        missing.contains("nowhere") && missing.contains("no such file"),
        "{missing}"
    );
}
