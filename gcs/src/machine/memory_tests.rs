use super::*;

struct CgroupTree(tempfile::TempDir);

impl CgroupTree {
    fn v2() -> Self {
        let tree = Self(tempfile::tempdir().expect("a directory"));
        tree.put("cgroup.controllers", "memory\n");
        for group in ["containers", "gcs"] {
            tree.events(group, 0, 0);
        }
        tree
    }

    fn put(&self, at: &str, text: &str) {
        let at = self.0.path().join(at);
        fs::create_dir_all(at.parent().expect("a directory")).expect("made");
        fs::write(at, text).expect("written");
    }

    /// Counters as v2 has them; `hits` are of the group's own limit.
    fn events(&self, group: &str, hits: u64, kills: u64) {
        let text =
            format!("low 0\nhigh 7\nmax 9\noom {hits}\noom_kill {kills}\noom_group_kill 5\n");
        self.put(&format!("{group}/memory.events"), &text);
        self.put(&format!("{group}/memory.events.local"), &text);
    }

    fn v1(&self, group: &str, hits: u64, kills: u64) {
        let control = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
        self.put(&format!("memory/{group}/memory.oom_control"), &control);
        self.put(
            &format!("memory/{group}/memory.failcnt"),
            &format!("{hits}\n"),
        );
    }

    fn watch(&self, threshold: u64) -> Watch {
        Watch::of(self.0.path(), threshold)
    }
}

fn kills(group: &str, times: u64, limit: &str) -> Shortage {
    Shortage::Kills {
        group: group.into(),
        times,
        limit: match limit {
            "" => Limit::Vm,
            group => Limit::Group(group.into()),
        },
    }
}

#[test]
fn kills_are_told_once_with_the_group_at_its_limit() {
    let tree = CgroupTree::v2();
    tree.events("containers", 1, 3);
    tree.events("containers/old", 1, 3);
    let mut watch = tree.watch(100);
    assert_eq!(watch.shortages(), [], "what was before is not news");
    // (the container's hits and kills, those of /containers, those of /gcs, what is logged)
    let (a, all, gcs) = ("/containers/a", "/containers", "/gcs");
    for (own, sum, service, told) in [
        ((4, 1), (1, 4), 0, vec![kills(a, 1, a)]),
        ((4, 1), (1, 4), 0, vec![]),
        ((4, 3), (2, 6), 0, vec![kills(a, 2, all)]),
        ((4, 4), (2, 7), 2, vec![kills(a, 1, ""), kills(gcs, 2, "")]),
        // A group that was gone before it was looked at.
        ((4, 4), (3, 9), 2, vec![kills(all, 2, all)]),
        ((5, 4), (3, 9), 2, vec![]),
    ] {
        tree.events("containers/a", own.0, own.1);
        tree.events("containers", sum.0, sum.1);
        tree.events("gcs", 0, service);
        assert_eq!(watch.shortages(), told, "{own:?} {sum:?} {service}");
        assert_eq!(watch.shortages(), []);
    }
}

#[test]
fn a_container_of_an_earlier_ones_name_counts_anew() {
    let tree = CgroupTree::v2();
    let mut watch = tree.watch(100);
    for round in 1..3 {
        // Another file keeps the inode from being given out again.
        tree.put(&format!("keep{round}/x"), "");
        tree.events("containers/a", 1, 1);
        tree.events("containers", 0, round);
        let told = [kills("/containers/a", 1, "/containers/a")];
        assert_eq!(watch.shortages(), told, "round {round}");
        fs::rename(
            tree.0.path().join("containers/a"),
            tree.0.path().join(format!("gone{round}")),
        )
        .expect("moved away");
    }
}

#[test]
fn a_crossed_threshold_is_told_once() {
    let tree = CgroupTree::v2();
    let mut watch = tree.watch(100);
    for (usage, told) in [
        ("100\n", vec![]),
        ("101\n", vec![Shortage::Service { usage: 101 }]),
        ("500\n", vec![]),
        ("99\n", vec![]),
        ("102\n", vec![Shortage::Service { usage: 102 }]),
        ("rubbish\n", vec![]),
    ] {
        tree.put("gcs/memory.current", usage);
        assert_eq!(watch.shortages(), told, "{usage}");
    }
}

#[test]
fn v1_counts_each_group_alone() {
    let tree = CgroupTree(tempfile::tempdir().expect("a directory"));
    for group in ["containers", "gcs", "containers/a", "containers/b"] {
        tree.v1(group, 0, 0);
    }
    tree.put("memory/gcs/memory.usage_in_bytes", "7\n");
    let mut watch = tree.watch(100);
    tree.v1("containers/a", 9, 2);
    tree.v1("containers/b", 0, 1);
    let mut told = watch.shortages();
    told.sort_by_key(|shortage| format!("{shortage:?}"));
    let (a, b) = ("/containers/a", "/containers/b");
    assert_eq!(told, [kills(a, 2, a), kills(b, 1, "")]);
    tree.v1("containers", 1, 0);
    tree.v1("containers/b", 0, 2);
    assert_eq!(watch.shortages(), [kills(b, 1, "/containers")]);
    assert_eq!(watch.shortages(), []);
    tree.put("memory/gcs/memory.usage_in_bytes", "101\n");
    assert_eq!(watch.shortages(), [Shortage::Service { usage: 101 }]);
}

#[test]
fn missing_files_are_no_shortage() {
    let empty = CgroupTree(tempfile::tempdir().expect("a directory"));
    assert_eq!(empty.watch(1).shortages(), []);
    let tree = CgroupTree::v2();
    let mut watch = tree.watch(1);
    fs::remove_dir_all(tree.0.path().join("containers")).expect("removed");
    assert_eq!(watch.shortages(), []);
}
