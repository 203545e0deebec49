use std::path::PathBuf;

use super::super::failing::Failing;
use super::super::testing::{in_mount_namespace, Tree};
use super::*;

/// A scratch file system with two layers, `top` over `bottom`, both with a file `who`.
fn with_layers(name: &str, body: impl FnOnce(&Tree, [PathBuf; 2]) + Send) {
    in_mount_namespace(name, || {
        let tree = Tree::on_tmpfs();
        let layers = ["top", "bottom"].map(|layer| {
            let path = tree.path(layer);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("who"), layer).unwrap();
            fs::write(path.join(format!("only-{layer}")), "").unwrap();
            path
        });
        body(&tree, layers);
    });
}

fn add_now(combined: &CombinedLayers) -> Result<MountRecord, Failure> {
    add(combined, &Journal::none())
}

fn remove(root: &str) -> Result<(), Failure> {
    super::super::remove(&super::super::Roots::default(), root, &[])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_first_layer_wins_and_changes_go_to_the_scratch() {
    with_layers("the_first_layer_wins", |tree, layers| {
        let (root, scratch) = (tree.path("c/rootfs"), tree.path("scratch/c1"));
        let before = tree.snapshot();
        let combined = CombinedLayers::new(text(&root), &layers, text(&scratch)).unwrap();
        add_now(&combined).unwrap();
        assert_eq!(fs::read(root.join("who")).unwrap(), b"top");
        assert!(root.join("only-bottom").exists());
        fs::write(root.join("new"), "kept").unwrap();
        fs::remove_file(root.join("only-top")).unwrap();
        assert!(layers[0].join("only-top").exists());

        remove(text(&root)).unwrap();

        assert!(!root.exists());
        assert_eq!(fs::read(scratch.join("upper/new")).unwrap(), b"kept");
        // Again, and of what never was: success (P-252 for layers).
        remove(text(&root)).unwrap();
        assert_ne!(tree.snapshot(), before);
        // The scratch of before is used again.
        add_now(&combined).unwrap();
        assert_eq!(fs::read(root.join("new")).unwrap(), b"kept");
        assert!(!root.join("only-top").exists());
        remove(text(&root)).unwrap();
    });
}

#[test]
fn without_a_scratch_the_root_is_read_only_also_with_one_layer() {
    with_layers("without_a_scratch", |tree, layers| {
        let root = tree.path("root");
        for layers in [&layers[..], &layers[..1]] {
            let combined = CombinedLayers::new(text(&root), layers, "").unwrap();
            add_now(&combined).unwrap();
            assert_eq!(fs::read(root.join("who")).unwrap(), b"top");
            let error = fs::write(root.join("new"), "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
            remove(text(&root)).unwrap();
            assert!(!root.exists());
        }
        assert!(layers[0].join("who").exists());
    });
}

#[test]
fn a_hundred_layers_with_long_names_are_fine() {
    with_layers("a_hundred_layers", |tree, _| {
        let layers: Vec<_> = (0..100)
            .map(|number| {
                let layer = tree.path(&format!("{number}-{}", "long".repeat(40)));
                fs::create_dir(&layer).unwrap();
                fs::write(layer.join(format!("f{number}")), "").unwrap();
                layer
            })
            .collect();
        let (root, scratch) = (tree.path("root"), tree.path("scratch"));
        let combined = CombinedLayers::new(text(&root), &layers, text(&scratch)).unwrap();
        // All names together are over a page: only the call layer by layer can do it.
        if linux_version() < (6, 7) {
            println!("SKIPPED: a_hundred_layers: Linux before 6.7 takes one page of options");
            return;
        }
        add_now(&combined).unwrap();
        for number in 0..100 {
            assert!(root.join(format!("f{number}")).exists());
        }
        remove(text(&root)).unwrap();
    });
}

fn linux_version() -> (u32, u32) {
    let uname = nix::sys::utsname::uname().unwrap();
    let release = uname.release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn whatever_step_fails_everything_is_as_before() {
    with_layers("whatever_step_fails", |tree, layers| {
        let (root, scratch) = (tree.path("c/c1/rootfs"), tree.path("scratch/c1"));
        // Part of it was there before and holds data.
        fs::create_dir_all(scratch.join("upper")).unwrap();
        fs::write(scratch.join("upper/data"), "x").unwrap();
        let before = tree.snapshot();
        for layers in [&layers[..], &layers[..1]] {
            for scratch in [text(&scratch), ""] {
                let combined = CombinedLayers::new(text(&root), layers, scratch).unwrap();
                let mut steps = 0;
                loop {
                    let kernel = Failing::at(steps);
                    let added = add_with(&kernel, &Journal::none(), &combined);
                    if !kernel.failed() {
                        added.unwrap();
                        break;
                    }
                    assert!(added.is_err(), "step {steps}");
                    assert_eq!(tree.snapshot(), before, "step {steps}");
                    steps += 1;
                }
                assert!(steps >= 4, "{steps}");
                remove(text(&root)).unwrap();
                for left in ["c", "scratch/c1/work", "scratch/c1/bundle"] {
                    super::super::tree::remove(&tree.path(left)).unwrap();
                }
                assert_eq!(tree.snapshot(), before);
            }
        }
    });
}

#[test]
fn the_bundle_lies_on_the_scratch_unless_it_is_there_already() {
    with_layers("the_bundle_lies_on_the_scratch", |tree, layers| {
        let add = |root: &str, scratch: &str| {
            let (root, scratch) = (tree.path(root), tree.path(scratch));
            let combined = CombinedLayers::new(text(&root), &layers, text(&scratch)).unwrap();
            add_now(&combined).unwrap();
        };
        add("c/c1/rootfs", "scratch/c1");
        fs::write(tree.path("c/c1/config.json"), "x").unwrap();
        assert!(tree.path("scratch/c1/bundle/config.json").exists());
        // What was written is still there when the root is mounted again.
        remove(text(&tree.path("c/c1/rootfs"))).unwrap();
        add("c/c1/rootfs", "scratch/c1");
        assert_eq!(fs::read(tree.path("c/c1/config.json")).unwrap(), b"x");
        assert!(tree.path("c/c1/rootfs/who").exists());

        // The scratch lies in the bundle: there is nothing to gain.
        add("c/c2/rootfs", "c/c2/scratch");
        assert!(!tree.path("c/c2/scratch/bundle").exists());
        // A directory that holds something would be hidden.
        add("c/c3/rootfs", "scratch/c3");
        add("c/c3/other", "scratch/c4");
        assert!(!tree.path("scratch/c4/bundle").exists());
        assert!(tree.path("c/c3/rootfs/who").exists());
    });
}

#[test]
fn a_missing_layer_is_named_and_changes_nothing() {
    with_layers("a_missing_layer", |tree, [top, _]| {
        let before = tree.snapshot();
        let (root, scratch) = (tree.path("root"), tree.path("scratch"));
        for bad in ["absent", "top/who"] {
            let layers = [top.clone(), tree.path(bad)];
            let combined = CombinedLayers::new(text(&root), &layers, text(&scratch)).unwrap();
            let failure = add_now(&combined).unwrap_err();
            assert_eq!(failure.code, crate::prot::HResult::FAIL);
            assert!(failure.message.contains(text(&layers[1])), "{failure}");
            assert_eq!(tree.snapshot(), before);
        }
    });
}

#[test]
fn settings_without_layers_or_root_are_refused() {
    let none: [&str; 0] = [];
    for (root, layers, scratch) in [
        ("/root", &none[..], ""),
        ("", &["/l"], ""),
        ("root", &["/l"], ""),
        ("/root", &["l"], ""),
        ("/root", &["/l"], "s"),
    ] {
        let refused = CombinedLayers::new(root, layers, scratch).unwrap_err();
        assert_eq!(
            refused.code,
            crate::prot::HResult::FAIL,
            "{root} {layers:?}"
        );
    }
    assert!(container_root("").is_err());
}
