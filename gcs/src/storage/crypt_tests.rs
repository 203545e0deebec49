use std::fs;

use super::super::failing::Failing;
use super::super::testing::Tree;
use super::super::Journal;
use super::*;

#[test]
fn the_tables_are_those_of_an_authenticated_disk_without_journal() {
    let tree = Tree::new();
    let device = tree.roots.dev.join("sda");
    fs::File::create(&device).unwrap().set_len(1 << 20).unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let kernel = Failing::never();
        let made = Undo::run(&kernel, &Journal::none(), |undo| {
            create(undo, &tree.roots, "name", &device, Instant::now())
        });
        let (mappings, node) = made.unwrap();
        assert_eq!(mappings, ["name_dif", "name"]);
        assert_eq!(node, tree.roots.dev.join("mapper/name"));
        let [(upper, crypt), (lower, integrity)] = kernel.tables().try_into().unwrap();
        assert_eq!((upper.as_str(), lower.as_str()), ("name", "name_dif"));
        assert!(crypt.running && integrity.running);
        // What the target itself says that it has room for.
        assert_eq!((crypt.sectors, integrity.sectors), (8, 8));
        assert_eq!(
            (crypt.kind.as_str(), integrity.kind.as_str()),
            ("crypt", "integrity")
        );
        let below = device.display();
        assert_eq!(
            integrity.parameters,
            format!("{below} 0 32 D 1 block_size:4096")
        );
        let words: Vec<&str> = crypt.parameters.split(' ').collect();
        let below = tree.roots.dev.join("mapper/name_dif");
        let expected = [
            "capi:authenc(hmac(sha256),xts(aes))-plain64",
            words[1],
            "0",
            below.to_str().unwrap(),
            "0",
            "2",
            "integrity:32:aead",
            "sector_size:4096",
        ];
        assert_eq!(words, expected);
        assert!(words[1].len() == 192 && words[1].bytes().all(|b| b.is_ascii_hexdigit()));
        keys.push(words[1].to_owned());
        mapper::remove_all(&kernel, &tree.roots, &mappings).unwrap();
    }
    assert_ne!(keys[0], keys[1], "each time another key");
}

#[test]
fn no_failure_shows_the_key() {
    let tree = Tree::new();
    let device = tree.roots.dev.join("sda");
    fs::File::create(&device).unwrap().set_len(1 << 20).unwrap();
    for step in 0..14 {
        let kernel = Failing::at(step);
        let made = Undo::run(&kernel, &Journal::none(), |undo| {
            create(undo, &tree.roots, "name", &device, Instant::now())
        });
        let failure = made.unwrap_err();
        assert!(failure.message.len() < 120, "{failure}");
        assert_eq!(kernel.tables(), [], "step {step}");
    }
}
